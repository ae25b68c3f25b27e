"""Start vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._joined import Joined
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.spectral.eigenpairs import Eigenpairs

_RANDOM_SHARE = 0.1


def random_vectors(key: jax.Array, struct: PyTree, num_vectors: int) -> PyTree:
    """Random start vectors, in the accumulation dtypes.

    Args:
        key: typed PRNG key.
        struct: shapes and dtypes of the operator's vectors.
        num_vectors: how many.

    Returns:
        Leaves (num_vectors, *shape), scattered over (−1, 1).
    """
    like = tree.work_struct(struct)
    each = [tree.scattered_like(seed, like) for seed in jax.random.bits(key, (num_vectors,), jnp.uint32)]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def start_vectors(
    key: jax.Array, struct: PyTree, num_vectors: int, layout: Any = None, check: PyTree | None = None
) -> PyTree:
    """Start vectors of a cold run, random ones, each device making its own part of them.

    Args:
        key: typed PRNG key.
        struct: shapes and dtypes of the operator's vectors.
        num_vectors: how many.
        layout: None, how they are split over devices, or how a run joins them.
        check: None, or a vector of the operator's space that has much of what is looked for: the first start vector
            is then the sum of it and of a random one of equal length. What is not finite, or zero, is left out.

    Returns:
        As ``random_vectors``, rows where they are joined: the same numbers, however they are kept, up to the rounding
        of what is added.
    """
    leaves, structure = jax.tree.flatten(struct)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    vectors = _start_vectors(key, check, shapes, structure, num_vectors, layout)
    return layout.placed(vectors, struct) if isinstance(layout, Joined) else vectors


@quick_jit(static_argnums=(2, 3, 4, 5))
def _start_vectors(
    key: jax.Array, check: PyTree | None, shapes: Any, structure: Any, num_vectors: int, layout: Any
) -> PyTree:
    struct = structure.unflatten(shapes)
    joined = isinstance(layout, Joined)
    vectors = random_vectors(key, layout.row_shapes(struct) if joined else struct, num_vectors)
    vectors = vectors if layout is None or joined else layout.put(vectors)
    if check is None:
        return vectors
    alone = jax.tree.map(lambda x: x[None], tree.to_work(check))
    if layout is not None:
        alone = layout.rows_of(alone) if joined else layout.put(alone)
    return _beside(vectors, alone)


def _beside(vectors: PyTree, alone: PyTree) -> PyTree:
    """Vectors with a given one, of leaves (1, *shape), added to the first of them at its length."""
    length, wanted = (tree.norm(jax.tree.map(lambda x: x[0], v)) for v in (alone, vectors))
    usable = jnp.isfinite(length) & (length > 0)

    def leaf(x: jax.Array, c: jax.Array) -> jax.Array:
        first = jnp.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1)) == 0
        return x + jnp.where(usable & first, c / length * wanted, 0).astype(x.dtype)

    return jax.tree.map(leaf, vectors, alone)


def one_vector(fn: Callable[..., PyTree], key: jax.Array, struct: PyTree, layout: Any = None) -> PyTree:
    """A random vector as a run keeps it, each device making its own part.

    Args:
        fn: ``fn(key, like)`` gives a vector of the shapes of ``like``; a function of a module.
        key: typed PRNG key.
        struct: shapes, dtypes and shardings of the operator's vectors.
        layout: how a run keeps them, see ``run_layout``.

    Returns:
        The vector, as rows where there is a layout.
    """
    leaves, structure = jax.tree.flatten(struct)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    vector = _one_vector(fn, key, shapes, structure, layout)
    if layout is None:
        return tree.place_like(vector, struct)
    return layout.placed(vector, struct) if isinstance(layout, Joined) else vector


@quick_jit(static_argnums=(0, 2, 3, 4))
def _one_vector(fn: Any, key: jax.Array, shapes: Any, structure: Any, layout: Any) -> PyTree:
    like = structure.unflatten(shapes)
    return fn(key, like if layout is None else layout.row_shapes(like))


def kept_vectors(key: jax.Array, start: Eigenpairs, check: PyTree | None) -> tuple[PyTree, jax.Array]:
    """Start vectors of a warm run: the kept pairs, their guards and a check direction.

    Kept vectors alone would never find a new extreme eigenvector that is orthogonal to them. The check direction may:
    it is a random vector, or one in which something new is likely to show, with a tenth of a random one.

    Args:
        key: typed PRNG key.
        start: pairs of a nearby operator.
        check: None, or a vector of the operator's space.

    Returns:
        Leaves (k + g + 1, *shape) in the accumulation dtypes, and (k + g + 1,) values that they had, 0 for the check.
    """
    first = jax.tree.map(lambda x: x[0], start.vectors)
    fresh = tree.scattered_like(jax.random.bits(key, dtype=jnp.uint32), first)
    fresh = tree.normalize(fresh, tree.norm(fresh))
    if check is not None:
        check = tree.to_work(check)
        length = tree.norm(check)
        usable = jnp.isfinite(length) & (length > 0)
        share = jnp.where(usable, _RANDOM_SHARE, 1)
        fresh = jax.tree.map(lambda c, f: jnp.where(usable, c / length, 0) + share * f, check, fresh)
    vectors = jax.tree.map(
        lambda v, g, f: jnp.concatenate([v, g, f[None].astype(v.dtype)]), start.vectors, start.guards, fresh
    )
    values = jnp.concatenate([start.values, start.guard_values, jnp.zeros(1, start.values.dtype)])
    return vectors, jnp.where(jnp.isfinite(values), values, 0)
