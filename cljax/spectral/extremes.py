"""Extreme eigenpairs at both ends of the spectrum, from one Krylov space, with their true residuals."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_positive_int, check_same_struct, check_tol
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.driver import apply_product, choose_driver, linearized, min_steps, residual_bound, run_lanczos
from cljax.spectral.krylov import KrylovState, orthogonality, ritz_pairs
from cljax.spectral.probes import start_vector_jit


@pytree_dataclass
class Eigenpairs:
    """k extreme eigenpairs, bottom ones first.

    Attributes:
        values: (k,), ascending; Rayleigh quotients of ``vectors``.
        vectors: a pytree with leaves (k, *shape), orthonormal, in float32 at least.
        residual_norms: (k,), ‖A v − θ v‖ by one more product each: an eigenvalue lies within this of θ.
        converged: (k,) bool, residual at most max(tol·|θ|, 32 eps ‖A‖).
        num_products: int32 scalar, all products used, those for the residuals included.
        orthogonality: scalar, greatest entry of |Vᵀ V − I|; near eps it rules out one eigenvalue returned twice.
    """

    values: jax.Array
    vectors: PyTree
    residual_norms: jax.Array
    converged: jax.Array
    num_products: jax.Array
    orthogonality: jax.Array


def extreme_eigenpairs(
    op: LinearOperator,
    key: jax.Array,
    *,
    num_top: int = 1,
    num_bottom: int = 0,
    tol: float = 1e-3,
    max_products: int = 100,
    start: Eigenpairs | None = None,
    driver: str = "auto",
) -> Eigenpairs:
    """The greatest and the least eigenvalues of a symmetric operator, with eigenvectors.

    A small residual proves that an eigenvalue is near, not that it is the extreme one: that none is missed holds with
    high probability over the random start. Eigenvalues of multiplicity above 1 may appear fewer times than they occur.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        num_top: static, how many of the greatest.
        num_bottom: static, how many of the least.
        tol: relative residual at which a pair counts as converged.
        max_products: static, most products, those for the residuals included; memory at most as many vectors, for a
            moment up to twice that with the host driver, whose basis grows by copying.
        start: None, or what a previous call returned for a nearby operator, with any number of pairs: its vectors
            enter the start vector, beside a random one.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        The pairs with residuals and status. NaN in the operator gives NaN values, not converged.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, num_top + num_bottom is below 1 or above n,
            ``max_products`` is too small for them, ``tol`` is not in (0, 1), ``start`` is of another space, or the
            driver cannot run here.
        TypeError: if ``op`` is no operator, ``start`` no Eigenpairs, ``key`` no typed key, or an integer argument is
            traced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(3), jnp.array([1.0, -3.0, 2.0]))
        >>> pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=1, num_bottom=1)
        >>> [round(value, 3) for value in pairs.values.tolist()]
        [-3.0, 2.0]

    References:
        Saad, Numerical Methods for Large Eigenvalue Problems (2011), section 6.6; residual bound: theorem 3.8 there.
    """
    check_symmetric("op", op)
    num_top, num_bottom, max_products = check_sizes(num_top, num_bottom, max_products, tree.size(op.struct))
    tol = check_tol("tol", tol)
    if start is not None:
        check_start(start, op.struct)
    num_pairs, dimension = num_top + num_bottom, tree.size(op.struct)
    check_key("key", key)
    start_key, run_key = jax.random.split(key)
    vector = start_vector_jit(start_key, tree.zeros_like(op.struct), None if start is None else start.vectors)
    num_steps = min(max_products - num_pairs, dimension)
    chosen = choose_driver(driver, op, vector)
    state = run_lanczos(chosen, op, vector, run_key, num_steps, tol, num_top, num_bottom)
    values, vectors, norm = _pairs(state, num_top, num_bottom)
    vectors = tree.place_like(vectors, op.struct, leading_axes=1)
    products = _products_compiled(op, vectors) if chosen == "compiled" else _products_host(op, vectors, num_pairs)
    return _verified(values, vectors, products, norm, jnp.asarray(tol, values.dtype), state.step)


def check_sizes(num_top: int, num_bottom: int, max_products: int, dimension: int) -> tuple[int, int, int]:
    """What can be known to be wrong before anything is multiplied.

    Args:
        num_top: as for ``extreme_eigenpairs``.
        num_bottom: as for ``extreme_eigenpairs``.
        max_products: as for ``extreme_eigenpairs``.
        dimension: of the operator.

    Returns:
        The first three, as Python integers.

    Raises:
        ValueError: if they do not fit together or the dimension.
        TypeError: if one of them is no integer.
    """
    num_top = check_positive_int("num_top", num_top, minimum=0)
    num_bottom = check_positive_int("num_bottom", num_bottom, minimum=0)
    num_pairs = num_top + num_bottom
    if not 1 <= num_pairs <= dimension:
        raise ValueError(
            f"num_top + num_bottom: expected 1 to {dimension}, the dimension of the operator, "
            f"got {num_top} + {num_bottom}"
        )
    least = num_pairs + min(dimension, min_steps(num_pairs))
    return num_top, num_bottom, check_positive_int("max_products", max_products, minimum=least)


def check_start(start: Any, struct: PyTree) -> None:
    """Require that ``start`` has vectors of ``struct``.

    Args:
        start: what the caller gave.
        struct: shapes and dtypes of the operator's vectors.

    Raises:
        TypeError: if it is no ``Eigenpairs``.
        ValueError: if its vectors are of another structure or shape.
    """
    if not isinstance(start, Eigenpairs):
        raise TypeError(f"start: expected Eigenpairs of a previous call, got {type(start).__name__}")
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start.vectors)
    check_same_struct("start.vectors", first, jax.eval_shape(tree.to_work, struct))


@partial(jax.jit, static_argnames=("num_top", "num_bottom"))
def _pairs(state: KrylovState, num_top: int, num_bottom: int) -> tuple[jax.Array, PyTree, jax.Array]:
    values, coefficients, _, norm = ritz_pairs(state, num_top, num_bottom)
    return values, tree.basis_combine(state.basis, coefficients, state.vector), norm


@jax.jit
def _products_compiled(op: LinearOperator, vectors: PyTree) -> PyTree:
    product, struct = op.linearize(), op.struct
    return jax.lax.map(lambda v: tree.to_work(product(tree.cast_like(v, struct))), vectors)


def _products_host(op: LinearOperator, vectors: PyTree, num_pairs: int) -> PyTree:
    product = linearized(op)
    each: list[Any] = [
        apply_product(product, op.struct, jax.tree.map(lambda x, i=i: x[i], vectors)) for i in range(num_pairs)
    ]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *each)


@jax.jit
def _verified(
    values: jax.Array, vectors: PyTree, products: PyTree, norm: jax.Array, tol: jax.Array, steps: jax.Array
) -> Eigenpairs:
    def residual(value: jax.Array, vector: PyTree, product: PyTree) -> jax.Array:
        return tree.norm(tree.axpy(-value, vector, tree.to_work(product)))

    quotients = jax.vmap(tree.vdot)(vectors, tree.to_work(products)).astype(values.dtype)
    residuals = jax.vmap(residual)(quotients, vectors, products).astype(values.dtype)
    return Eigenpairs(
        values=quotients,
        vectors=vectors,
        residual_norms=residuals,
        converged=residuals <= residual_bound(quotients, norm, tol),
        num_products=steps + values.shape[0],
        orthogonality=orthogonality(vectors),
    )
