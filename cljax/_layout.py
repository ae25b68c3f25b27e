"""Vectors on the devices of a mesh: how each leaf is split, and work that each device does on its own part.

A vector is handed around as it comes, a pytree in the shardings of the parameters. A Krylov run keeps it as ``Rows``:
each device lays out its own part of a leaf in one axis, so that no sharding is lost by flattening, whatever axis was
sharded. Where a device's part is also held by others, it may be divided among them, padded with zeros, which no inner
product sees. Sums over all entries are then the only collectives: one for a sum over all leaves, on any mesh.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cljax._pytree import pytree_dataclass, static
from cljax._typing import PyTree


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the leaves of a vector are split; hashable, for static arguments.

    Attributes:
        mesh: the devices.
        structure: of the vector.
        shapes: of its leaves.
        specs: PartitionSpecs of its leaves.
        splits: for each leaf the mesh axes among which a device's part is divided further in ``Rows``.
    """

    mesh: Any
    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[PartitionSpec, ...]
    splits: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        """Entries of a vector, without padding."""
        return sum(map(math.prod, self.shapes))

    def rows(self, vector: PyTree) -> "Rows":
        """A vector in the shardings ``specs`` as rows; no communication."""
        return self._rows(vector, self.specs)

    def rows_like(self, vector: PyTree, like: "Rows") -> "Rows":
        """As ``rows``; ``like`` is some other vector."""
        del like
        return self.rows(vector)

    def rows_of(self, vectors: PyTree) -> "Rows":
        """Vectors with leaves (k, *shape), in the shardings ``kept``, as rows; they are whole one at a time."""
        return self._rows(vectors, self.kept, several=True)

    def vector(self, rows: "Rows") -> PyTree:
        """The vector of some rows, in the shardings ``specs``; parts that were divided are gathered."""
        return self._vector(rows, self.specs)

    def vectors(self, rows: "Rows") -> PyTree:
        """Leaves (k, *shape), in the shardings ``kept``; they are whole one at a time."""
        return self._vector(rows, self.kept, several=True)

    @functools.cached_property
    def kept(self) -> tuple[PartitionSpec, ...]:
        """PartitionSpecs of vectors that are kept: ``specs``, and ``splits`` where they divide an axis of the leaf."""
        return tuple(self._kept(*leaf) for leaf in zip(self.shapes, self.specs, self.splits, strict=True))

    def zeros(self, like: PyTree, num: int) -> PyTree:
        """Leaves (num, *shape) of zeros in the shardings ``kept``, made in their places."""

        def leaf(x: Any, spec: PartitionSpec) -> jax.Array:
            return jnp.zeros((num, *x.shape), x.dtype, device=NamedSharding(self.mesh, PartitionSpec(None, *spec)))

        return jax.tree.map(leaf, like, self.structure.unflatten(self.kept))

    def put(self, vectors: PyTree) -> PyTree:
        """Vectors with leaves (k, *shape), in the shardings ``kept``."""

        def leaf(x: jax.Array, spec: PartitionSpec) -> jax.Array:
            sharding = NamedSharding(self.mesh, PartitionSpec(None, *spec))
            if not isinstance(x, jax.core.Tracer):
                return jax.device_put(x, sharding)
            return (jax.sharding.reshard if _is_explicit(self.mesh) else jax.lax.with_sharding_constraint)(x, sharding)

        return jax.tree.map(leaf, vectors, self.structure.unflatten(self.kept))

    def like(self, rows: "Rows") -> PyTree:
        """Shapes of a vector, in the dtypes of some rows."""
        pairs = zip(self.shapes, rows.leaves, strict=True)
        return self.structure.unflatten([jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in pairs])

    def row_shapes(self, like: PyTree, num: int | None = None) -> "Rows":
        """Shapes, dtypes and shardings of one vector, or of ``num``, as rows; dtypes are those of ``like``."""

        def leaf(index: int, dtype: Any) -> Any:
            split, lead = self.splits[index], () if num is None else (num,)
            part, others = math.prod(self._part(index)), self._num(spec_names(self.specs[index]))
            size = others * self._num(split) * -(-part // self._num(split))
            sharding = NamedSharding(self.mesh, self.row_spec(index, 1 + len(lead)))
            return jax.ShapeDtypeStruct((*lead, size), dtype, sharding=sharding)

        return Rows(tuple(leaf(index, x.dtype) for index, x in enumerate(jax.tree.leaves(like))), self)

    def made(self, make: Callable[[PyTree], PyTree], rows: "Rows") -> "Rows":
        """What ``make`` gives for the shapes of a vector, as rows."""
        return self.rows(make(self.like(rows)))

    def row_spec(self, leaf: int, rank: int) -> PartitionSpec:
        """PartitionSpec of a leaf in rows, with rank − 1 axes in front that are not split."""
        axes = (*spec_names(self.specs[leaf]), *self.splits[leaf])
        return PartitionSpec(*(None,) * (rank - 1), axes or None)

    def on_shards(self, fn: Callable[..., Any], args: tuple[Any, ...], out: str) -> Any:
        """``fn`` on each device's part of rows, see ``on_shards``."""
        count = range(len(self.shapes))

        def spec(arg: Any) -> Any:
            return tuple(self.row_spec(i, arg.leaves[i].ndim) for i in count) if isinstance(arg, Rows) else _WHOLE

        def local(*parts: Any) -> Any:
            found = fn(*parts)
            return found if out in RANKS else self._reduced(found, out)

        out_specs = tuple(self.row_spec(i, RANKS[out]) for i in count) if out in RANKS else _WHOLE
        parts = [arg.leaves if isinstance(arg, Rows) else arg for arg in args]
        found = self._mapped(local, tuple(map(spec, args)), out_specs)(*parts)
        return Rows(found, self) if out in RANKS else found

    def _mapped(self, fn: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        return jax.shard_map(fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def _reduced(self, terms: tuple[jax.Array, ...], out: str) -> jax.Array:
        used = [{*spec_names(spec), *split} for spec, split in zip(self.specs, self.splits, strict=True)]
        axes = tuple(name for name in self.mesh.axis_names if any(name in names for names in used))
        if out == "max":
            return jax.lax.pmax(functools.reduce(jnp.maximum, terms), axes)
        # what several devices hold counts on the first of them
        first = [[jax.lax.axis_index(name) == 0 for name in axes if name not in names] for names in used]
        terms = tuple(
            jnp.where(functools.reduce(jnp.logical_and, f), t, 0) if f else t for f, t in zip(first, terms, strict=True)
        )
        return jax.lax.psum(functools.reduce(jnp.add, terms), axes)

    def _rows(self, vector: PyTree, specs: tuple[PartitionSpec, ...], several: bool = False) -> "Rows":
        def leaf(index: int, x: jax.Array) -> jax.Array:
            for axis, names in _added(self.specs[index], specs[index]):
                x = jax.lax.all_gather(x, names, axis=axis, tiled=True)
            split, x = self.splits[index], x.reshape(-1)
            if not split:
                return x
            part = -(-x.size // self._num(split))
            x = jnp.pad(x, (0, part * self._num(split) - x.size))
            return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(split) * part, part)

        in_specs, row_specs = self._specs(specs, several)
        leaves = jax.tree.leaves(vector)
        if _is_explicit(self.mesh):
            placed = [NamedSharding(self.mesh, spec) for spec in in_specs]
            leaves = [jax.sharding.reshard(x, sharding) for x, sharding in zip(leaves, placed, strict=True)]
        return Rows(self._each(leaf, several, in_specs, row_specs)(*leaves), self)

    def _vector(self, rows: "Rows", specs: tuple[PartitionSpec, ...], several: bool = False) -> PyTree:
        def leaf(index: int, x: jax.Array) -> jax.Array:
            split, shape = self.splits[index], self._part(index)
            if split:
                x = jax.lax.all_gather(x, split, tiled=True)[: math.prod(shape)]
            x = x.reshape(shape)
            for axis, names in _added(self.specs[index], specs[index]):
                part = x.shape[axis] // self._num(names)
                x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * part, part, axis)
            return x

        out_specs, row_specs = self._specs(specs, several)
        return self.structure.unflatten(self._each(leaf, several, row_specs, out_specs)(*rows.leaves))

    def _each(self, fn: Callable[..., Any], several: bool, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``fn(index, leaf)`` on each device for each leaf or, with several vectors, for each row of each leaf."""

        def local(*leaves: jax.Array) -> tuple[jax.Array, ...]:
            def one(index: int, x: jax.Array) -> jax.Array:
                return jax.lax.map(functools.partial(fn, index), x) if several else fn(index, x)

            return tuple(one(index, x) for index, x in enumerate(leaves))

        return self._mapped(local, in_specs, out_specs)

    def _specs(self, specs: tuple[PartitionSpec, ...], several: bool) -> tuple[Any, Any]:
        """PartitionSpecs of the leaves of one or several vectors, as they come and in rows."""
        rows = tuple(self.row_spec(index, 1 + several) for index in range(len(self.shapes)))
        return tuple(PartitionSpec(*(None,) * several, *spec) for spec in specs), rows

    def _num(self, names: tuple[str, ...]) -> int:
        return math.prod(self.mesh.shape[name] for name in names)

    def _part(self, index: int) -> tuple[int, ...]:
        spec = (*self.specs[index], *(None,) * len(self.shapes[index]))
        return tuple(d // self._num(spec_entry(e)) for d, e in zip(self.shapes[index], spec, strict=False))

    def _kept(self, shape: tuple[int, ...], spec: PartitionSpec, split: tuple[str, ...]) -> PartitionSpec:
        entries = [spec_entry(e) for e in (*spec, *(None,) * (len(shape) - len(spec)))]
        for name in split:
            parts = [d // self._num(e) for d, e in zip(shape, entries, strict=True)]
            whole = [(part, axis) for axis, part in enumerate(parts) if part % self.mesh.shape[name] == 0]
            if whole:
                entries[max(whole)[1]] += (name,)
        return PartitionSpec(*(e or None for e in entries))


@pytree_dataclass
class Rows:
    """A vector, or several with leaves (m, size), as a Krylov run keeps them.

    Attributes:
        leaves: tuple of arrays; on a mesh the entries of each are in the order of the devices that hold them.
        layout: how they are split, a ``Layout``, or joined, a ``cljax._joined.Joined``.
    """

    leaves: tuple[jax.Array, ...]
    layout: Any = static()


_WHOLE = PartitionSpec()
RANKS = {"vector": 1, "basis": 2}


def on_shards(fn: Callable[..., Any], *args: Any, out: str) -> Any:
    """A function of vectors and bases, on each device's part of them where they are ``Rows``.

    Args:
        fn: takes ``args``, with tuples of leaves in place of rows; gives leaves or, for a reduction, one term for each.
        *args: rows, or pytrees that are whole on each device.
        out: what comes out: rows of a "vector" or a "basis", or "sum" or "max" of all terms.

    Returns:
        Rows, or the reduction; where no argument is rows, plainly ``fn(*args)``, reduced.
    """
    layout = next((arg.layout for arg in args if isinstance(arg, Rows)), None)
    if layout is not None:
        return layout.on_shards(fn, args, out)
    found = fn(*args)
    if out in RANKS:
        return found
    return functools.reduce(jnp.maximum if out == "max" else jnp.add, jax.tree.leaves(found))


def layout_of(struct: PyTree, spread: bool = False) -> Layout | None:
    """The layout of vectors like ``struct``.

    Args:
        struct: pytree of ``jax.ShapeDtypeStruct``, with shardings where there are any.
        spread: divide what several devices hold among them.

    Returns:
        The layout, or None where each device holds all, and shall.
    """
    leaves, structure = jax.tree.flatten(struct)
    named = [x.sharding for x in leaves if isinstance(x.sharding, NamedSharding)]
    if len({sharding.mesh for sharding in named}) != 1:
        return None
    mesh = named[0].mesh
    specs = tuple(x.sharding.spec if isinstance(x.sharding, NamedSharding) else _WHOLE for x in leaves)
    used = [{name for name in spec_names(spec) if mesh.shape[name] > 1} for spec in specs]
    rest = [tuple(a for a in mesh.axis_names if a not in names and mesh.shape[a] > 1) for names in used]
    splits = tuple(names if spread else () for names in rest)
    if not any(used) and not any(splits) and not _is_explicit(mesh):
        return None
    return Layout(mesh, structure, tuple(tuple(x.shape) for x in leaves), specs, splits)


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def spec_entry(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def spec_names(spec: PartitionSpec) -> tuple[str, ...]:
    """All mesh axes of a PartitionSpec."""
    return tuple(name for entry in spec for name in spec_entry(entry))


def _added(spec: PartitionSpec, other: PartitionSpec) -> list[tuple[int, tuple[str, ...]]]:
    """The mesh axes that ``other`` has beside those of ``spec``, by axis of the array."""
    entries = [*spec, *(None,) * (len(other) - len(spec))]
    return [
        (axis, spec_entry(new)[len(spec_entry(old)) :])
        for axis, (old, new) in enumerate(zip(entries, other, strict=True))
        if len(spec_entry(new)) > len(spec_entry(old))
    ]
