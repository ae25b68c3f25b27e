"""Placement of data and parameters on devices."""

from cljax.parallel.mesh import data_mesh, make_mesh, replicate, shard_batch
from cljax.parallel.rules import shard_params, shardings

__all__ = ["data_mesh", "make_mesh", "replicate", "shard_batch", "shard_params", "shardings"]
