"""Placement of data and parameters on devices, of one process or of many."""

from cljax.parallel.distributed import (
    LostProcessError,
    Processes,
    everywhere,
    initialize,
    is_lost_process,
    is_writer,
    on_writer,
)
from cljax.parallel.mesh import abstract_mesh, batch_rows, data_mesh, make_mesh, replicate, shard_batch
from cljax.parallel.placement import host_values, own_rows, put_rows, put_whole
from cljax.parallel.rules import shard_params, shardings

__all__ = [
    "LostProcessError",
    "Processes",
    "abstract_mesh",
    "batch_rows",
    "data_mesh",
    "everywhere",
    "host_values",
    "initialize",
    "is_lost_process",
    "is_writer",
    "make_mesh",
    "on_writer",
    "own_rows",
    "put_rows",
    "put_whole",
    "replicate",
    "shard_batch",
    "shard_params",
    "shardings",
]
