"""Data parallelism over whatever devices there are."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cljax._checks import check_positive_int
from cljax._typing import PyTree

DATA_AXIS = "data"


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with one axis, "data", whose sharding the compiler propagates (Auto).

    Args:
        num_devices: None for all devices, or how many of them.

    Returns:
        The mesh.

    Raises:
        ValueError: if there are fewer devices.

    Example:
        >>> from cljax import parallel
        >>> parallel.data_mesh(1).axis_names
        ('data',)
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else check_positive_int("num_devices", num_devices)
    if count > len(devices):
        raise ValueError(f"num_devices: expected at most {len(devices)}, the devices there are, got {count}")
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Put a batch on the mesh, its leading axis split over all devices.

    Args:
        batch: pytree of arrays with leading axis (n, ...), n a multiple of the number of devices.
        mesh: made by ``data_mesh``.

    Returns:
        The same pytree on the devices.

    Raises:
        ValueError: if n is no multiple of the number of devices.
    """
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % mesh.size:
            raise ValueError(
                f"batch: expected a multiple of {mesh.size} examples, one share a device, got {leaf.shape[0]}; "
                "pad it with examples of weight 0"
            )
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree on every device of the mesh, whole.

    Args:
        tree: pytree of arrays.
        mesh: made by ``data_mesh``.

    Returns:
        The same pytree on the devices.
    """

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, tree)
