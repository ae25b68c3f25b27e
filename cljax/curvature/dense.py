"""Operators as dense matrices and as operators of other libraries."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from cljax import tree
from cljax.curvature.base import LinearOperator


def to_dense(op: LinearOperator, *, max_bytes: int = 2**30) -> jax.Array:
    """The operator as a matrix, one product for each column.

    Args:
        op: an operator.
        max_bytes: refuse matrices above this size.

    Returns:
        Shape (size of ``out_struct``, size of ``struct``); rows and columns in the order of the leaves, each leaf in
        C order.

    Raises:
        ValueError: if the matrix would exceed ``max_bytes``.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> curvature.to_dense(curvature.hessian(lambda w: w[0] * w[1], jnp.zeros(2))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    rows, columns = tree.size(op.out_struct), tree.size(op.struct)
    itemsize = max(leaf.dtype.itemsize for leaf in jax.tree.leaves(op.out_struct))
    if rows * columns * itemsize > max_bytes:
        needed = rows * columns * itemsize / 2**30
        raise ValueError(
            f"op: expected a matrix of at most {max_bytes / 2**30:.3g} GiB, got {rows} x {columns} ({needed:.3g} GiB); "
            "use spectral.extreme_eigenpairs or spectral.spectral_density, or raise max_bytes"
        )
    return _dense(op)


@jax.jit
def _dense(op: LinearOperator) -> jax.Array:
    product = op.linearize()
    flat, unravel = ravel_pytree(tree.zeros_like(op.struct))

    def column(index: jax.Array) -> jax.Array:
        return ravel_pytree(product(unravel(jnp.zeros_like(flat).at[index].set(1))))[0]

    return jax.lax.map(column, jnp.arange(flat.size), batch_size=32).T


def to_scipy(op: LinearOperator) -> Any:
    """The operator for SciPy's solvers.

    Args:
        op: an operator.

    Returns:
        A ``scipy.sparse.linalg.LinearOperator`` on flat NumPy vectors, in the order of ``to_dense``.

    Raises:
        ImportError: if SciPy is not installed.
    """
    import scipy.sparse.linalg as sla

    def flat_product(operator: LinearOperator) -> Any:
        unravel = ravel_pytree(tree.zeros_like(operator.struct))[1]
        dtype = jnp.result_type(*jax.tree.leaves(operator.struct))
        return lambda x: np.asarray(ravel_pytree(operator.mv(unravel(jnp.asarray(x.reshape(-1), dtype))))[0])

    return sla.LinearOperator(
        (tree.size(op.out_struct), tree.size(op.struct)),
        matvec=flat_product(op),
        rmatvec=flat_product(op.T),
        dtype=jnp.result_type(*jax.tree.leaves(op.out_struct)),
    )


def to_lineax(op: LinearOperator, *, positive_semidefinite: bool | None = None) -> Any:
    """The operator for lineax's solvers.

    Args:
        op: an operator; tagged symmetric where it is.
        positive_semidefinite: whether to tag it so, for solvers that need it; None for what the operator says of
            itself. Nothing checks it.

    Returns:
        A ``lineax.FunctionLinearOperator`` on the same pytrees, linearized once.

    Raises:
        ImportError: if lineax is not installed.
    """
    import lineax

    tags = [lineax.symmetric_tag] if op.symmetric else []
    if op.positive_semidefinite if positive_semidefinite is None else positive_semidefinite:
        tags.append(lineax.positive_semidefinite_tag)
    return lineax.FunctionLinearOperator(partial(_apply, op.linearize()), op.struct, tags)


def _apply(product: Any, v: Any) -> Any:
    return product(v)
