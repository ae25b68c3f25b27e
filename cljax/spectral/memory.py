"""How the vectors of a Krylov run are kept."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cljax._checks import check_positive_int
from cljax._joined import joined_of
from cljax._layout import Layout, layout_of
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.differentiable import is_traced


@dataclasses.dataclass(frozen=True)
class Memory:
    """How ``extreme_eigenpairs`` keeps its basis; ``spectral.plan`` says what each way takes for an operator.

    With none of the options, a vector is kept for each product, in float32 at least.

    Attributes:
        basis_size: most vectors kept at a time, or None for as many as there are products. Fewer need more products:
            the run restarts from the best Ritz vectors whenever the basis is full.
        half: keep the vectors in bfloat16: half of the memory. Coefficients, products and what is returned stay in
            float32 at least. Residuals do not fall below about 0.004 ‖A‖, the rounding of the vectors, which they
            include; a cold run ends there, and what its start hides is of that order too;
            values are more accurate, the more so the larger the operator, and returned vectors orthonormal up
            to rounding of bfloat16. Not with ``basis_size``: each restart would round the kept vectors anew.
        offload: keep the vectors in the host's memory, in float32 or wider, and orthogonalize there: the device holds a
            few vectors, and two of them are moved in each step. Host loop only, and of several processes each needs
            all parameters.
        sharded: spread the vectors over all devices of a mesh, also where the parameters are whole on each: the basis
            takes 1 / devices of the memory, and each product gathers one vector. True for the mesh on which the
            parameters lie, or the mesh itself, as inside of jit an Auto mesh cannot be seen. The vectors returned have
            their usual shapes, split over the devices as far as the lengths of their axes allow. Without this, vectors
            are split as the parameters are. Not with ``offload``.
    """

    basis_size: int | None = None
    half: bool = False
    offload: bool = False
    sharded: bool | Mesh = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: if ``basis_size`` is below 1, or options do not go together.
            TypeError: if ``basis_size`` is no integer, or ``sharded`` no mesh.
        """
        if self.basis_size is not None:
            check_positive_int("basis_size", self.basis_size)
        if self.half and (self.offload or self.basis_size is not None):
            raise ValueError(f"memory: expected half without other options, got {self}; leave half out")
        if not isinstance(self.sharded, bool | Mesh):
            raise TypeError(f"sharded: expected a bool or a jax.sharding.Mesh, got {type(self.sharded).__name__}")
        if self.sharded and self.offload:
            raise ValueError("memory: expected sharded or offload, got both; leave offload out")

    def layout(self, struct: PyTree) -> Layout | None:
        """How the vectors of a run are split over devices.

        Args:
            struct: shapes, dtypes and shardings of the operator's vectors.

        Returns:
            The layout, or None where they are kept as they come.

        Raises:
            ValueError: if they are to be spread over a mesh that is not known.
        """
        if self.offload:
            return None
        if isinstance(self.sharded, Mesh):
            whole = NamedSharding(self.sharded, PartitionSpec())

            def placed(x: Any) -> Any:
                return x if x.sharding is not None else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)

            struct = jax.tree.map(placed, struct)
        elif self.sharded and not any(isinstance(x.sharding, NamedSharding) for x in jax.tree.leaves(struct)):
            raise ValueError(
                "memory: expected parameters on a mesh with sharded=True, got none; place them with "
                "parallel.replicate(params, mesh) or, inside of jit, give sharded=mesh"
            )
        return layout_of(struct, spread=bool(self.sharded))


ALL = Memory()
"""Keep every vector, on the device, as it is worked with."""


def run_layout(op: LinearOperator, memory: Memory = ALL) -> Any:
    """How a run keeps the vectors of an operator.

    Args:
        op: the operator.
        memory: how its basis is kept.

    Returns:
        Split over a mesh, joined in one array where they are whole on each device, or None for leaf by leaf: on the
        host, and inside of jit, where it cannot be seen whether they are whole.
    """
    layout = memory.layout(op.struct)
    shardings = [x.sharding for x in jax.tree.leaves(op.struct)]
    whole = all(sharding is None or sharding.is_fully_replicated for sharding in shardings)
    if layout is not None or memory.offload or is_traced(op) or not whole:
        return layout
    return joined_of(op.struct)
