"""Work on one example at a time, as many side by side as fit."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_positive_int
from cljax._typing import PyTree

_CHUNK_BYTES = 2**28


def check_chunk(chunk_size: int | None, num_examples: int, params: PyTree, copies: int = 1) -> int:
    """How many examples to work on side by side.

    Args:
        chunk_size: as the caller asks, or None for as many as fit in 256 MiB.
        num_examples: there are no more than these.
        params: pytree of arrays.
        copies: vectors of the size of ``params`` that an example needs.

    Returns:
        At least 1, at most ``num_examples``.

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    if chunk_size is None:
        per_example = copies * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
        chunk_size = max(1, _CHUNK_BYTES // per_example)
    return min(check_positive_int("chunk_size", chunk_size), num_examples)


def map_examples(fn: Callable[[PyTree], PyTree], examples: PyTree, chunk_size: int) -> PyTree:
    """``fn`` of each example, ``chunk_size`` of them side by side: memory does not grow with their number.

    Args:
        fn: a function of one example, without the batch axis.
        examples: pytree of arrays with leading axis (n, ...).
        chunk_size: at least 1.

    Returns:
        The results, stacked along a leading axis n.
    """
    if chunk_size >= jax.tree.leaves(examples)[0].shape[0]:
        return jax.vmap(fn)(examples)
    return jax.lax.map(fn, examples, batch_size=chunk_size)


def example_jacobian(apply_fn: Any, params: PyTree, inputs: PyTree) -> tuple[jax.Array, PyTree]:
    """Scores of one example, and its Jacobian in the parameters.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K).
        params: pytree of floating arrays.
        inputs: one example, without the batch axis.

    Returns:
        Scores (K,), and a pytree like ``params`` of rows (K, size), in float32 at least.
    """
    scores, pull_fn = jax.vjp(lambda p: apply_fn(p, jax.tree.map(lambda x: x[None], inputs))[0], params)
    rows = jax.vmap(lambda v: pull_fn(v)[0])(jnp.eye(scores.shape[0], dtype=scores.dtype))

    def flat(row: jax.Array) -> jax.Array:
        return row.reshape(row.shape[0], -1).astype(tree.work_dtype(row.dtype))

    return scores.astype(tree.work_dtype(scores.dtype)), jax.tree.map(flat, rows)


def gram(rows: PyTree) -> jax.Array:
    """The matrix J Jᵀ of a Jacobian's rows: (K, K)."""
    return reduce(jnp.add, [jnp.matmul(x, x.T) for x in jax.tree.leaves(rows)])


def pull_back(rows: PyTree, v: jax.Array) -> PyTree:
    """The vector Jᵀ v, leaf by leaf flat."""
    return jax.tree.map(lambda x: jnp.matmul(v.astype(x.dtype), x), rows)


def center(x: jax.Array) -> jax.Array:
    """Coordinates of the first axis in an orthonormal basis of the complement of ones: (K, ...) -> (K − 1, ...).

    The basis is that of the columns after the first of a Householder reflection of ones onto the first axis. Rows of a
    Jacobian are centered before they are multiplied: a great common part would drown the eigenvalues in rounding.

    Args:
        x: shape (K, ...), K at least 2.

    Returns:
        Shape (K − 1, ...).
    """
    num = x.shape[0]
    return x[1:] - (jnp.sum(x, axis=0, keepdims=True) + num**0.5 * x[:1]) / (num + num**0.5)
