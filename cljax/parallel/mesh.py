"""Data parallelism over whatever devices there are."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cljax._checks import check_positive_int
from cljax._typing import PyTree
from cljax.parallel.placement import own_rows, put_rows, put_whole

DATA_AXIS = "data"


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
    devices = jax.devices()
    count = len(devices) if num_devices is None else check_positive_int("num_devices", num_devices)
    if count > len(devices):
        raise ValueError(f"num_devices: expected at most {len(devices)}, the devices there are, got {count}")
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(f"num_devices: expected all {len(devices)} of {jax.process_count()} processes, got {count}")
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Put a batch on the mesh, its leading axis split over all devices.

    Args:
        batch: pytree of arrays with leading axis (n, ...), n a multiple of the number of this process' devices; with
            several processes the rows of each, see ``batch_rows``.
        mesh: made by ``data_mesh``.

    Returns:
        The same pytree on the devices.

    Raises:
        ValueError: if n is no multiple of the number of devices.
    """
    shares = mesh.local_mesh.size
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % shares:
            raise ValueError(
                f"batch: expected a multiple of {shares} examples, one share a device, got {leaf.shape[0]}; "
                "pad it with examples of weight 0"
            )
    return put_rows(batch, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def batch_rows(num_rows: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch this process reads, for ``shard_batch``.

    Args:
        num_rows: of the batch over all processes, a multiple of the number of devices.
        mesh: made by ``data_mesh``.

    Returns:
        Ascending indices; all with one process.

    Example:
        >>> from cljax import parallel
        >>> parallel.batch_rows(3, parallel.data_mesh(1)).tolist()
        [0, 1, 2]
    """
    return own_rows(NamedSharding(mesh, PartitionSpec(DATA_AXIS)), num_rows)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree on every device of the mesh, whole.

    Args:
        tree: pytree of arrays, the same in every process.
        mesh: made by ``data_mesh``.

    Returns:
        The same pytree on the devices.
    """
    return put_whole(tree, NamedSharding(mesh, PartitionSpec()))
