"""Placement of data and parameters on devices."""

from cljax.parallel.mesh import data_mesh, replicate, shard_batch

__all__ = ["data_mesh", "replicate", "shard_batch"]
