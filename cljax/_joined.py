"""Vectors that are whole on each device, kept in one array by a Krylov run.

Work on a basis is then one operation, however many leaves the parameters have: programs compile in a fraction of the
time, and small leaves cost no more than their share. Vectors that are split over a mesh keep their leaves apart, see
``cljax._layout``: joining these would move them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cljax._layout import RANKS, Rows
from cljax._typing import PyTree


@dataclasses.dataclass(frozen=True)
class Joined:
    """How the leaves of a vector follow each other in one array; hashable, for static arguments.

    Attributes:
        structure: of the vector.
        shapes: of its leaves, all of one dtype.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Entries of a vector."""
        return sum(map(math.prod, self.shapes))

    def rows(self, vector: PyTree) -> Rows:
        """A vector in one array (n,)."""
        return Rows((jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(vector)]),), self)

    def rows_like(self, vector: PyTree, like: Rows) -> Rows:
        """A vector in one array, by a program that also makes it.

        Fused with what makes its parts, a concatenation becomes on XLA's CPU backend one loop over the whole result for
        each part, with loads that are masked outside of it: slow, and by far where these hit pages that are not there.
        Parts that are written over another array are written in their places.

        Args:
            vector: the vector.
            like: some other vector, in one array.

        Returns:
            The array.
        """
        parts = jax.tree.leaves(vector)

        def together(_: jax.Array, *parts: jax.Array) -> jax.Array:
            return jnp.concatenate([x.reshape(-1) for x in parts])

        other = like.leaves[0].astype(parts[0].dtype)
        return Rows((jax.lax.platform_dependent(other, *parts, cpu=_overwritten, default=together),), self)

    def rows_of(self, vectors: PyTree) -> Rows:
        """Vectors with leaves (k, *shape) in one array (k, n)."""
        return Rows((jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(vectors)], axis=1),), self)

    def vector(self, rows: Rows) -> PyTree:
        """The vector of some rows."""
        return self._split(rows.leaves[0])

    def vectors(self, rows: Rows) -> PyTree:
        """Leaves (k, *shape)."""
        return self._split(rows.leaves[0])

    def row_shapes(self, like: PyTree, num: int | None = None) -> Rows:
        """Shapes of one vector, or of ``num``, in one array of the dtype of ``like``."""
        shape = (self.size,) if num is None else (num, self.size)
        row: Any = jax.ShapeDtypeStruct(shape, jax.tree.leaves(like)[0].dtype)
        return Rows((row,), self)

    def put(self, vectors: PyTree) -> PyTree:
        """Vectors with leaves (k, *shape) on the device."""
        return jax.tree.map(jnp.asarray, vectors)

    def placed(self, rows: Rows, struct: PyTree) -> Rows:
        """Rows on all devices of the mesh of ``struct``, where it has one; traced ones as they are."""
        meshes = [x.sharding.mesh for x in jax.tree.leaves(struct) if isinstance(x.sharding, NamedSharding)]
        if not meshes or isinstance(rows.leaves[0], jax.core.Tracer):
            return rows
        return jax.device_put(rows, NamedSharding(meshes[0], PartitionSpec()))

    def like(self, rows: Rows) -> PyTree:
        """Shapes of a vector, in the dtype of some rows."""
        return self.structure.unflatten([jax.ShapeDtypeStruct(s, rows.leaves[0].dtype) for s in self.shapes])

    def made(self, make: Callable[[PyTree], PyTree], rows: Rows) -> Rows:
        """What ``make`` gives for the shapes of rows, entries by their place in the order of the leaves."""
        return Rows(make(rows.leaves), self)

    def on_shards(self, fn: Callable[..., Any], args: tuple[Any, ...], out: str) -> Any:
        """``fn`` on the arrays themselves, see ``cljax._layout.on_shards``."""
        found = fn(*(arg.leaves if isinstance(arg, Rows) else arg for arg in args))
        if out in RANKS:
            return Rows(found, self)
        return functools.reduce(jnp.maximum if out == "max" else jnp.add, found)

    def _split(self, x: jax.Array) -> PyTree:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        pieces = zip(jnp.split(x, ends, axis=-1), self.shapes, strict=True)
        return self.structure.unflatten([part.reshape(*x.shape[:-1], *shape) for part, shape in pieces])


def _overwritten(whole: jax.Array, *parts: jax.Array) -> jax.Array:
    """One array behind the other in the place of another array."""
    start = 0
    for part in parts:
        whole = jax.lax.dynamic_update_slice_in_dim(whole, part.reshape(-1), start, 0)
        start += part.size
    return whole


def joined_of(struct: PyTree) -> Joined | None:
    """The layout of vectors like ``struct`` in one array.

    Args:
        struct: pytree of ``jax.ShapeDtypeStruct``, of vectors that are whole on each device.

    Returns:
        The layout, or None where leaves differ in dtype or have more entries than can be counted in int32.
    """
    leaves, structure = jax.tree.flatten(struct)
    layout = Joined(structure, tuple(tuple(x.shape) for x in leaves))
    return layout if len({x.dtype for x in leaves}) == 1 and layout.size < 2**31 else None
