"""Meshes of devices, and data on them: batches split over axes of a mesh, other arrays whole on every device."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from cljax._checks import check_positive_int
from cljax._typing import PyTree
from cljax.parallel.placement import own_rows, put_rows, put_whole

DATA_AXIS = "data"
_REST = -1


def make_mesh(
    axes: str | Mapping[str, int], *, explicit: bool = False, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of devices with named axes.

    Args:
        axes: lengths by name, the last axis between the nearest devices: "data=4,model=2", or a mapping. One of them
            may be -1 or, in a string, left out, as in "data,model=2": it takes what the others leave.
        explicit: whether shardings are part of the types of arrays (Explicit axes); otherwise the compiler propagates
            them (Auto axes).
        devices: those to use, in order; the first of all devices where None.

    Returns:
        The mesh.

    Raises:
        ValueError: if a name or a length is wrong, or there are too few devices.
        TypeError: if a length is no integer.

    Example:
        >>> from cljax import parallel
        >>> dict(parallel.make_mesh("data=1,model=1").shape)
        {'data': 1, 'model': 1}
    """
    lengths = _parse(axes) if isinstance(axes, str) else dict(axes)
    if not lengths:
        raise ValueError(f"mesh: expected at least one axis, got {axes!r}; for example data=8")
    open_axes = [name for name, length in lengths.items() if length == _REST]
    if len(open_axes) > 1:
        raise ValueError(f"mesh: expected at most one axis without a length, got {' and '.join(open_axes)} in {axes!r}")
    for name, length in lengths.items():
        if name not in open_axes:
            lengths[name] = check_positive_int(f"mesh axis {name}", length)
    devices = jax.devices() if devices is None else list(devices)
    count = math.prod(length for length in lengths.values() if length != _REST)
    if open_axes:
        if not len(devices) or len(devices) % count:
            raise ValueError(
                f"mesh: expected axes whose product divides the {len(devices)} devices, got {axes!r}, which needs a "
                f"multiple of {count}"
            )
        lengths[open_axes[0]], count = len(devices) // count, len(devices)
    if count > len(devices):
        raise ValueError(
            f"mesh: expected at most {len(devices)} devices, all there are, got {axes!r} for {count}; give another mesh"
        )
    if count < len(jax.devices()) and jax.process_count() > 1:
        raise ValueError(f"mesh: expected all {len(jax.devices())} devices of all processes, got {axes!r} for {count}")
    kinds = (AxisType.Explicit if explicit else AxisType.Auto,) * len(lengths)
    return jax.make_mesh(tuple(lengths.values()), tuple(lengths), axis_types=kinds, devices=devices[:count])


def abstract_mesh(axes: str | Mapping[str, int]) -> AbstractMesh:
    """A mesh without devices, for plans of any number of them.

    Args:
        axes: lengths by name, all of them: "data=512", or a mapping.

    Returns:
        The mesh; ``parallel.shardings`` takes it.

    Raises:
        ValueError: if a name or a length is wrong or left out.
        TypeError: if a length is no integer.

    Example:
        >>> from cljax import parallel
        >>> parallel.abstract_mesh("data=512").size
        512
    """
    lengths = _parse(axes) if isinstance(axes, str) else dict(axes)
    if not lengths:
        raise ValueError(f"mesh: expected at least one axis, got {axes!r}; for example data=8")
    for name, length in lengths.items():
        if length == _REST:
            raise ValueError(f"mesh: expected a length for {name}, got {axes!r}; for example {name}=8")
        check_positive_int(f"mesh axis {name}", length)
    return AbstractMesh(tuple(lengths.values()), tuple(lengths))


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with one axis, "data", whose sharding the compiler propagates (Auto).

    Args:
        num_devices: None for all devices, or how many of them; all where there are several processes.

    Returns:
        The mesh.

    Raises:
        ValueError: if there are fewer devices.

    Example:
        >>> from cljax import parallel
        >>> parallel.data_mesh(1).axis_names
        ('data',)
    """
    available = len(jax.devices())
    count = available if num_devices is None else check_positive_int("num_devices", num_devices)
    if count > available:
        raise ValueError(
            f"num_devices: expected at most {available}, the devices there are, got {count}; give another number"
        )
    return make_mesh({DATA_AXIS: count})


def batch_axes(mesh: Mesh | AbstractMesh, axes: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """The axes of a mesh over which batches are split.

    Args:
        mesh: the devices.
        axes: names; where None, "data" if the mesh has it, else all of its axes.

    Returns:
        Their names.

    Raises:
        ValueError: if the mesh does not have one of them, or one is there twice.
    """
    if axes is None:
        return (DATA_AXIS,) if DATA_AXIS in mesh.axis_names else tuple(mesh.axis_names)
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    for name in names:
        if name not in mesh.axis_names:
            raise ValueError(f"axes: expected axes of the mesh, {', '.join(mesh.axis_names)}, got {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"axes: expected each axis of the mesh once, got {', '.join(names)}")
    return names


def num_shares(mesh: Mesh | AbstractMesh, axes: str | Sequence[str] | None = None) -> int:
    """Parts into which a batch is split, see ``batch_axes``."""
    return math.prod(mesh.shape[name] for name in batch_axes(mesh, axes))


def shard_batch(batch: PyTree, mesh: Mesh, axes: str | Sequence[str] | None = None) -> PyTree:
    """Put a batch on the mesh, its leading axis split over one axis of the mesh or over several.

    Args:
        batch: pytree of arrays with leading axis (n, ...), n a multiple of the number of shares; with several processes
            the rows of each, see ``batch_rows``.
        mesh: the devices.
        axes: names of the mesh's axes; where None, "data" if the mesh has it, else all of its axes. Devices along other
            axes hold the same share.

    Returns:
        The same pytree on the devices.

    Raises:
        ValueError: if n is no multiple of the number of shares, an array has no leading axis, or the mesh does not have
            an axis.
    """
    sharding = NamedSharding(mesh, PartitionSpec(batch_axes(mesh, axes)))
    shares = len(own_rows(sharding, num_shares(mesh, axes)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not np.shape(leaf):
            where = f"batch{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected an array with an axis of examples, got a scalar; use replicate for it")
        if np.shape(leaf)[0] % shares:
            raise ValueError(
                f"batch: expected a multiple of {shares} examples, one share a device, got {np.shape(leaf)[0]}; "
                "pad it with examples of weight 0"
            )
    return put_rows(batch, sharding)


def batch_rows(num_rows: int, mesh: Mesh, axes: str | Sequence[str] | None = None) -> np.ndarray:
    """Which rows of a batch this process reads, for ``shard_batch``.

    Args:
        num_rows: of the batch over all processes, a multiple of the number of shares.
        mesh: the devices.
        axes: as for ``shard_batch``.

    Returns:
        Ascending indices; all with one process.

    Raises:
        ValueError: if ``num_rows`` is no multiple of the number of shares, or the mesh does not have an axis.
        TypeError: if it is no integer.

    Example:
        >>> from cljax import parallel
        >>> parallel.batch_rows(3, parallel.data_mesh(1)).tolist()
        [0, 1, 2]
    """
    shares = num_shares(mesh, axes)
    if check_positive_int("num_rows", num_rows, 0) % shares:
        raise ValueError(
            f"num_rows: expected a multiple of {shares}, one share a device, got {num_rows}; pad the batch"
        )
    return own_rows(NamedSharding(mesh, PartitionSpec(batch_axes(mesh, axes))), num_rows)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree on every device of the mesh, whole.

    Args:
        tree: pytree of arrays, the same in every process.
        mesh: the devices.

    Returns:
        The same pytree on the devices.
    """
    return put_whole(tree, NamedSharding(mesh, PartitionSpec()))


def _parse(text: str) -> dict[str, int]:
    """Lengths by name from "data=4,model=2"."""
    lengths: dict[str, int] = {}
    for word in text.split(","):
        name, equals, length = (part.strip() for part in word.partition("="))
        if not name.isidentifier() or name in lengths:
            raise ValueError(f"mesh: expected NAME=LENGTH with different names, got {word!r} in {text!r}; say data=4")
        try:
            lengths[name] = int(length) if equals else _REST
        except ValueError:
            raise ValueError(f"mesh: expected NAME=LENGTH with an integer, got {word!r}; for example data=4") from None
    return lengths
