"""Start vectors and probes."""

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree

RANDOM_SHARE = 0.5


def start_vector(key: jax.Array, struct: PyTree, previous: PyTree | None = None) -> PyTree:
    """A unit start vector for Lanczos: random, or a mixture of kept vectors and a random one.

    A kept vector alone would never find a new extreme eigenvector that is orthogonal to it; the random part, of norm
    ``RANDOM_SHARE`` against 1, does.

    Args:
        key: typed PRNG key.
        struct: shapes and dtypes of the operator's vectors.
        previous: None, or kept vectors with leaves (k, *shape); zeros and non-finite ones count for nothing.

    Returns:
        A unit vector in the accumulation dtypes.
    """
    like = jax.eval_shape(tree.to_work, struct)
    fresh = tree.random_like(key, like)
    fresh = tree.scale(1 / tree.norm(fresh), fresh)
    if previous is None:
        return fresh
    kept = jax.tree.map(lambda v, x: jnp.sum(v.astype(x.dtype), axis=0), previous, like)
    length = tree.norm(kept)
    usable = jnp.isfinite(length) & (length > 0)
    kept = jax.tree.map(lambda x: jnp.where(usable, x / length, 0), kept)
    mixed = tree.axpy(RANDOM_SHARE, fresh, kept)
    return tree.scale(1 / tree.norm(mixed), mixed)


start_vector_jit = jax.jit(start_vector)
