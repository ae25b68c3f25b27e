"""Derivatives of eigenvalues in what the operator is made of, by the Hellmann-Feynman theorem."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator


@jax.custom_jvp
def with_derivative(values: jax.Array, vectors: PyTree, op: LinearOperator) -> jax.Array:
    """Eigenvalues whose derivative in the operator is dθᵢ = vᵢᵀ dA vᵢ, whatever way they were found.

    Args:
        values: (k,), not differentiated themselves.
        vectors: leaves (k, *shape), unit eigenvectors, not differentiated themselves.
        op: symmetric operator; its floating leaves are what is differentiated in.

    Returns:
        The values. The derivative is that of the eigenvalue where it is simple, up to the residual of the pair over
        its gap; of an eigenvalue that occurs several times it is one of many. A second one is refused: it would lack
        the change of the vectors.
    """
    del vectors, op
    return values


@with_derivative.defjvp
def _with_derivative_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    values, vectors, op = primals[0], primals[1], _first_order(primals[2])

    def quotients(op: LinearOperator) -> jax.Array:
        product, struct = op.linearize(), op.struct

        def quotient(v: PyTree) -> jax.Array:
            return tree.vdot(v, product(tree.cast_like(v, struct)))

        return jax.lax.map(quotient, vectors).astype(values.dtype)

    return values, jax.jvp(quotients, (op,), (tangents[2],))[1]


@jax.custom_jvp
def _first_order(op: LinearOperator) -> LinearOperator:
    return op


@_first_order.defjvp
def _first_order_jvp(primals: Any, tangents: Any) -> tuple[LinearOperator, LinearOperator]:
    del primals, tangents
    raise NotImplementedError(
        "values: expected one derivative of an eigenvalue at most, got two; the second needs those of the vectors, "
        "which are constants here: take differences of the first"
    )


def is_traced(op: Any) -> bool:
    """Whether a leaf is inside of a transformation, where a derivative may be asked for."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(op))


def without_derivative(x: PyTree) -> PyTree:
    """The same values, constant under differentiation; keys and integers as they are."""

    def leaf(x: Any) -> Any:
        return jax.lax.stop_gradient(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return jax.tree.map(leaf, x)
