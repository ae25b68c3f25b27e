"""Work on one example at a time, as many side by side as fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_positive_int
from cljax._typing import PyTree

_CHUNK_BYTES = 2**28


def check_chunk(chunk_size: int | None) -> int | None:
    """Check how many examples the caller wants to work on side by side.

    Args:
        chunk_size: as the caller asks, or None for as many as fit in 256 MiB.

    Returns:
        The same.

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    return None if chunk_size is None else check_positive_int("chunk_size", chunk_size)


def map_examples(
    fn: Callable[[PyTree], PyTree], examples: PyTree, chunk_size: int | None, example_bytes: int
) -> PyTree:
    """``fn`` of each example, some of them side by side: memory does not grow with their number.

    Args:
        fn: a function of one example, without the batch axis.
        examples: pytree of arrays with leading axis (n, ...).
        chunk_size: how many side by side; None for as many as fit in 256 MiB.
        example_bytes: what one of them needs.

    Returns:
        The results, stacked along a leading axis n.
    """
    if chunk_size is None:
        chunk_size = max(1, _CHUNK_BYTES // max(example_bytes, 1))
    if chunk_size >= jax.tree.leaves(examples)[0].shape[0]:
        return jax.vmap(fn)(examples)
    return jax.lax.map(fn, examples, batch_size=chunk_size)


def center(x: jax.Array) -> jax.Array:
    """Coordinates of the first axis in an orthonormal basis of the complement of ones: (K, ...) -> (K − 1, ...).

    The basis is that of the columns after the first of a Householder reflection of ones onto the first axis.

    Args:
        x: shape (K, ...), K at least 2.

    Returns:
        Shape (K − 1, ...).
    """
    num = x.shape[0]
    return x[1:] - (jnp.sum(x, axis=0, keepdims=True) + num**0.5 * x[:1]) / (num + num**0.5)


def score_basis(scores: jax.ShapeDtypeStruct, centered: bool) -> jax.Array:
    """Directions of the scores whose derivatives make up J.

    They are centered before they are pulled back: a great common part of the rows would drown the eigenvalues of the
    rest in rounding.

    Args:
        scores: shape (K,) and dtype.
        centered: whether to take the complement of ones alone.

    Returns:
        Orthonormal rows in float32 at least: (K, K), or (K − 1, K) if centered.
    """
    basis = jnp.eye(scores.shape[0], dtype=tree.work_dtype(scores.dtype))
    return center(basis) if centered else basis
