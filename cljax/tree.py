"""Vector space on pytrees: inner products, random vectors, and Krylov bases that keep the structure of the vector.

A basis of m vectors is a pytree of the vector's structure with leaves (m, size), or (m, *shape) where flattening would
lose the sharding of a leaf; the helpers tell the layouts apart by the shapes. Everything accumulates in float32 at
least, at the highest matrix-product precision.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cljax import _random
from cljax._basis import basis_combine as basis_combine
from cljax._basis import basis_dot as basis_dot
from cljax._basis import basis_get as basis_get
from cljax._basis import basis_gram as basis_gram
from cljax._basis import basis_recombine as basis_recombine
from cljax._basis import basis_round as basis_round
from cljax._basis import basis_roundoff as basis_roundoff
from cljax._basis import basis_set as basis_set
from cljax._basis import basis_turn as basis_turn
from cljax._basis import basis_zeros as basis_zeros
from cljax._checks import check_key
from cljax._layout import Rows, on_shards
from cljax._typing import PyTree, Scalar


def work_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to accumulate in: float32 for half precision, else ``dtype`` itself."""
    return jnp.promote_types(dtype, jnp.float32)


def struct(tree: PyTree) -> PyTree:
    """Shapes, dtypes and, of arrays placed on purpose and of shapes, shardings: ``jax.ShapeDtypeStruct`` leaves."""

    def leaf(x: jax.Array) -> jax.ShapeDtypeStruct:
        placed = isinstance(x, jax.ShapeDtypeStruct) or (_is_concrete(x) and x.committed)
        dtype = x.dtype if isinstance(x, jax.Array) else jnp.result_type(x)
        return jax.ShapeDtypeStruct(jnp.shape(x), dtype, sharding=x.sharding if placed else None)

    return jax.tree.map(leaf, tree)


def work_struct(struct: PyTree) -> PyTree:
    """Shapes of vectors like ``struct`` in the dtypes to accumulate in, see ``work_dtype``."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, work_dtype(jnp.result_type(x))), struct)


def place_like(tree: PyTree, struct: PyTree, leading_axes: int = 0) -> PyTree:
    """``tree`` in the shardings that ``struct`` has, where it has any; traced arrays stay where the compiler puts them.

    Args:
        tree: pytree of arrays.
        struct: from ``struct``.
        leading_axes: how many axes the leaves of ``tree`` have before those of ``struct``; they are not sharded.

    Returns:
        The same values.
    """

    def leaf(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        if not isinstance(like.sharding, NamedSharding) or not _is_concrete(x):
            return x
        spec = PartitionSpec(*(None,) * leading_axes, *like.sharding.spec)
        return jax.device_put(x, NamedSharding(like.sharding.mesh, spec))

    return jax.tree.map(leaf, tree, struct)


def from_rows(vector: PyTree) -> PyTree:
    """A vector of a Krylov run in the structure, the shapes and the shardings in which an operator takes it."""
    return vector.layout.vector(vector) if isinstance(vector, Rows) else vector


def rows_like(vector: PyTree, like: PyTree) -> PyTree:
    """A vector as a run keeps it, split over a mesh or joined in one array, where ``like`` is one that is."""
    return like.layout.rows_like(vector, like) if isinstance(like, Rows) else vector


def whole(vectors: PyTree) -> PyTree:
    """Vectors of a basis with leaves (k, size) or (k, *shape), with leaves (k, *shape) where they are split."""
    return vectors.layout.vectors(vectors) if isinstance(vectors, Rows) else vectors


def size(tree: PyTree) -> int:
    """Number of entries of all leaves together."""
    if isinstance(tree, Rows):
        return tree.layout.size
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """``tree`` in the dtypes of ``like``, leaf by leaf."""
    if isinstance(tree, Rows) and not isinstance(like, Rows):
        like = Rows(tuple(jax.tree.leaves(like))[: len(tree.leaves)], tree.layout)  # joined leaves have one dtype
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype), tree, like)


def to_work(tree: PyTree) -> PyTree:
    """``tree`` in the dtypes to accumulate in, see ``work_dtype``."""
    return jax.tree.map(lambda x: x.astype(work_dtype(x.dtype)), tree)


def vdot(a: PyTree, b: PyTree) -> Scalar:
    """Inner product Σ aᵢ bᵢ over all leaves, accumulated in float32 at least: a scalar."""

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(x.astype(work_dtype(x.dtype)) * y.astype(work_dtype(y.dtype)))

    return on_shards(functools.partial(jax.tree.map, leaf), a, b, out="sum")


def norm(a: PyTree) -> Scalar:
    """Euclidean norm over all leaves: a scalar; entries whose squares leave the dtype's range are scaled first."""
    a = to_work(a)
    greatest = on_shards(lambda v: jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0), v), a, out="max")
    unit = jnp.where((greatest > 0) & (greatest < jnp.inf), invertible(greatest), 1)
    scaled = jax.tree.map(lambda x: (x / unit).astype(x.dtype), a)
    return unit * jnp.sqrt(vdot(scaled, scaled))


def add(a: PyTree, b: PyTree) -> PyTree:
    """``a + b``, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def sub(a: PyTree, b: PyTree) -> PyTree:
    """``a − b``, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(alpha: jax.Array | float, a: PyTree) -> PyTree:
    """``alpha · a`` in the dtypes of ``a``."""
    return jax.tree.map(lambda x: (alpha * x).astype(x.dtype), a)


def normalize(a: PyTree, length: jax.Array) -> PyTree:
    """``a / length`` in the dtypes of ``a``; the inverse of a tiny length may overflow where the quotient does not."""
    # 0 may come out for a length beyond ``invertible``
    return jax.tree.map(lambda x: (x / length).astype(x.dtype), a)


def invertible(length: jax.Array) -> jax.Array:
    """``length``, at most the greatest number of its dtype whose inverse is not denormal."""
    # for units of which only the order of magnitude counts: XLA divides by a scalar as it multiplies by the inverse,
    # and a denormal one may count as 0
    return jnp.minimum(length, 1 / jnp.finfo(length.dtype).tiny)


def coarsest_eps(struct: PyTree) -> float:
    """The greatest relative rounding of the dtypes of ``struct``, in which products with vectors like it come."""
    return max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in jax.tree.leaves(struct))


def axpy(alpha: jax.Array | float, x: PyTree, y: PyTree) -> PyTree:
    """``alpha · x + y`` in the dtypes of ``y``."""
    return jax.tree.map(lambda a, b: (alpha * a + b).astype(b.dtype), x, y)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the shapes and dtypes of ``tree``, and in its shardings."""
    return jax.tree.map(jnp.zeros_like, tree)


def random_like(key: jax.Array, tree: PyTree, distribution: str = "normal") -> PyTree:
    """Independent random entries of mean 0 and variance 1 in the shapes and dtypes of ``tree``.

    Args:
        key: typed PRNG key.
        tree: pytree of arrays or ``jax.ShapeDtypeStruct``.
        distribution: "normal" or "rademacher" (±1 with equal probability).

    Returns:
        A pytree like ``tree``; the same for the same key, however the arrays are sharded.

    Raises:
        TypeError: if ``key`` is no typed PRNG key, or a leaf is not floating.
        ValueError: if the distribution is not known, or an axis has more than 2³² entries.
    """
    check_key("key", key)
    if distribution not in _SAMPLERS:
        raise ValueError(f"distribution: expected one of {sorted(_SAMPLERS)}, got {distribution!r}")
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(tree)):
        raise TypeError(f"tree: expected floating leaves, got {sorted({str(x.dtype) for x in jax.tree.leaves(tree)})}")
    return _entries(_SAMPLERS[distribution], key, tree)


_SAMPLERS = {"normal": _random.normal, "rademacher": _random.rademacher}


def scattered_like(seed: jax.Array, tree: PyTree) -> PyTree:
    """Entries scattered over (−1, 1) in the shapes and dtypes of ``tree``, by a hash of their places.

    For vectors that must only lie in no special subspace: a program with this compiles faster than one with
    ``random_like``. For anything with a distribution, use ``random_like``.

    Args:
        seed: uint32 scalar.
        tree: pytree of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        A pytree like ``tree``.
    """
    return _entries(_random.scattered, seed, tree)


def _entries(sample: Callable[..., jax.Array], source: jax.Array, tree: PyTree) -> PyTree:
    if isinstance(tree, Rows):
        return tree.layout.made(functools.partial(_entries, sample, source), tree)
    leaves, structure = jax.tree.flatten(tree)
    shapes, dtypes = tuple(tuple(x.shape) for x in leaves), tuple(jnp.result_type(x) for x in leaves)
    return jax.tree.unflatten(structure, _made(source, sample, shapes, dtypes))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _made(source: jax.Array, sample: Callable[..., jax.Array], shapes: Any, dtypes: Any) -> list[jax.Array]:
    """Arrays that follow each other, as ``sample(source, shape, dtype, start)`` makes each."""
    likes = zip(shapes, dtypes, _random.starts(shapes), strict=True)
    return [sample(source, shape, dtype, start) for shape, dtype, start in likes]


def is_replicated(tree: PyTree) -> bool:
    """Whether every concrete leaf is whole on each device; traced and NumPy leaves count as whole."""
    shardings = [leaf.sharding for leaf in jax.tree.leaves(tree) if _is_concrete(leaf)]
    return all(sharding.is_fully_replicated for sharding in shardings)


def _is_concrete(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
