"""Arrays that span the devices of all processes: from each one's rows, from what all have, and back to the host."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding

from cljax._typing import PyTree


def own_rows(sharding: NamedSharding, num_rows: int) -> np.ndarray:
    """Which rows of a global array this process holds, to be read here; ``put_rows`` puts them.

    Args:
        sharding: of the leading axis.
        num_rows: length of the leading axis over all processes, a multiple of the number of its shares.

    Returns:
        Ascending indices, all of them with one process.

    Example:
        >>> import jax
        >>> from cljax import parallel
        >>> sharding = jax.sharding.NamedSharding(parallel.data_mesh(1), jax.sharding.PartitionSpec("data"))
        >>> parallel.own_rows(sharding, 3).tolist()
        [0, 1, 2]
    """
    indices = sharding.addressable_devices_indices_map((num_rows,)).values()
    slices = {index[0].indices(num_rows)[:2] for index in indices if index is not None}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(slices)])


def put_rows(rows: PyTree, sharding: NamedSharding) -> PyTree:
    """One global array from the rows that each process has.

    Args:
        rows: pytree of arrays with this process' rows on the leading axis, those of ``own_rows``.
        sharding: of the leading axis.

    Returns:
        Arrays over all devices.

    Example:
        >>> import jax, numpy as np
        >>> from cljax import parallel
        >>> sharding = jax.sharding.NamedSharding(parallel.data_mesh(1), jax.sharding.PartitionSpec("data"))
        >>> parallel.put_rows(np.arange(3), sharding).tolist()
        [0, 1, 2]
    """
    return jax.make_array_from_process_local_data(sharding, rows)


def put_whole(tree: PyTree, shardings: Sharding | PyTree) -> PyTree:
    """Global arrays from arrays that are the same in each process, which keeps what its devices hold.

    Args:
        tree: pytree of arrays and typed keys.
        shardings: one, or a pytree of them.

    Returns:
        Arrays over all devices.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import parallel
        >>> sharding = jax.sharding.NamedSharding(parallel.data_mesh(1), jax.sharding.PartitionSpec())
        >>> parallel.put_whole(jnp.ones(2), sharding).tolist()
        [1.0, 1.0]
    """
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    # device_put takes no keys here, and compares each array over the network
    return jax.jit(lambda x: x, out_shardings=shardings)(tree)


def host_values(tree: PyTree) -> PyTree:
    """NumPy arrays with the whole of global arrays, in every process; all must call.

    Args:
        tree: pytree of arrays, small ones.

    Returns:
        The same on the host.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import parallel
        >>> parallel.host_values(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """

    def value(x: Any) -> np.ndarray:
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(value, tree)
