"""What a search for extreme eigenpairs will take, in bytes and products, before anything is run."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from cljax import tree
from cljax._checks import check_positive_int, check_tol
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.driver import choose_driver
from cljax.spectral.eigenpairs import num_guards
from cljax.spectral.extreme_sizes import check_memory, check_sizes, least_basis
from cljax.spectral.extremes import cold_goal
from cljax.spectral.goal import COLD_TOL
from cljax.spectral.memory import ALL, Memory
from cljax.spectral.plan_bytes import Programs
from cljax.spectral.plan_products import estimate_products

_HALF_TOL = 2.0**-7


@dataclasses.dataclass(frozen=True)
class PlannedMode:
    """What one way to keep the vectors takes.

    Attributes:
        name: in words.
        memory: for ``extreme_eigenpairs``; None for no basis at all, which is for quadrature only:
            ``spectral_density`` with ``reorthogonalize=False``.
        device_bytes: the most that one device holds: operator, vectors, results, and all that the programs need.
        host_bytes: the vectors in the host's memory.
        num_products: products that it will take, see ``Plan.estimated``.
        fits: whether ``device_bytes`` are within the budget; None without one.
    """

    name: str
    memory: Memory | None
    device_bytes: int
    host_bytes: int
    num_products: int
    fits: bool | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Ways to keep the vectors of a search, the plainest first; ``print`` shows a table.

    Attributes:
        modes: the ways.
        budget_bytes: of one device, or None where it is not known.
        recommended: the first way that fits, can meet the tolerance and takes no more than ``max_products``, or None.
        estimated: whether ``num_products`` are estimates for the assumed gap; otherwise they are the most allowed.
        driver: of the loop that was planned, "compiled" or "host"; a basis on the host takes the host loop always.
    """

    modes: tuple[PlannedMode, ...]
    budget_bytes: int | None
    recommended: PlannedMode | None
    estimated: bool
    driver: str

    def __str__(self) -> str:
        """A table for a terminal."""
        products = "products (estimate)" if self.estimated else "products (most)"
        lines = [f"{'vectors kept':22}{'device':>12}{'host':>12}{products:>21}  fits"]
        for mode in self.modes:
            fits = {None: "?", True: "yes", False: "no"}[mode.fits] + (" *" if mode is self.recommended else "")
            sizes = f"{_words(mode.device_bytes):>12}{_words(mode.host_bytes):>12}"
            lines.append(f"{mode.name:22}{sizes}{mode.num_products:>21}  {fits}")
        budget = "not known" if self.budget_bytes is None else _words(self.budget_bytes)
        lines.append(f"{self.driver} loop; budget {budget}; * recommended; 'none' is for spectral_density only")
        return "\n".join(lines)


def plan(
    op: LinearOperator,
    *,
    num_top: int = 1,
    num_bottom: int = 0,
    tol: float = 1e-3,
    max_products: int = 100,
    block_size: int = 1,
    basis_sizes: Sequence[int] = (40, 20),
    relative_gap: float | None = None,
    budget_bytes: int | None = None,
    driver: Any = "auto",
) -> Plan:
    """Bytes and products of a cold search for extreme eigenpairs, for each way to keep its vectors.

    Bytes are XLA's own memory analysis of the programs, compiled for the shapes of the operator and not run; what the
    backend holds besides, such as fragmented memory, is not in them. With ``jax.ShapeDtypeStruct`` leaves in place of
    the parameters and the batch, an operator of any size can be planned on any machine:
    ``curvature.hessian(objective, jax.eval_shape(init, key), batch_shapes)``. A backend plans for itself.

    Args:
        op: symmetric operator; its leaves may be arrays or ``jax.ShapeDtypeStruct``. Not a streamed one: plan the
            operator of one batch, with ``driver="host"``.
        num_top: as for ``extreme_eigenpairs``.
        num_bottom: as for ``extreme_eigenpairs``.
        tol: as for ``extreme_eigenpairs``.
        max_products: as for ``extreme_eigenpairs``.
        block_size: as for ``extreme_eigenpairs``.
        basis_sizes: sizes of a restarted basis to plan; those that are too small or never full are left out.
        relative_gap: None, or an assumed distance from the wanted eigenvalue that is hardest to find to the nearest one
            that is not wanted, over the width of all that are not wanted: then products are estimated, with a
            Kaniel-Paige-Saad bound for simple eigenvalues. Otherwise ``max_products`` is what each may take.
        budget_bytes: memory of one device, or None for what the backend says it has, where it says so.
        driver: "compiled", "host" or "auto", as for ``extreme_eigenpairs``.

    Returns:
        The plan.

    Raises:
        ValueError: if a number is out of range, or the operator is streamed or not symmetric.
        TypeError: if ``op`` is no operator.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> shape = jax.ShapeDtypeStruct((1_000_000,), jnp.float32)
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, shape, shape)
        >>> planned = spectral.plan(op, max_products=50, basis_sizes=(20,), budget_bytes=200_000_000, driver="compiled")
        >>> planned.recommended.name
        'at most 20'
    """
    check_symmetric("op", op)
    if op.host_only:
        raise ValueError(
            "op: expected an operator in memory, got a streamed one; plan that of one batch, driver='host'"
        )
    dimension = tree.size(op.struct)
    num_top, num_bottom, max_products = check_sizes(num_top, num_bottom, max_products, dimension)
    tol = check_tol("tol", tol)
    width = min(check_positive_int("block_size", block_size), dimension)
    if relative_gap is not None and not 0 < relative_gap < math.inf:
        raise ValueError(f"relative_gap: expected a finite number above 0, got {relative_gap}")
    budget = _device_budget() if budget_bytes is None else check_positive_int("budget_bytes", budget_bytes)
    chosen = choose_driver(driver, op)
    work = tree.work_struct(op.struct)
    goal = cold_goal(tol, work, num_top, num_bottom, "residual", width)
    steps, results = min(max_products, dimension), num_top + num_bottom + num_guards(num_top, num_bottom, dimension)
    programs = Programs(op, goal, max_products, width, results)
    run_bytes = programs.compiled if chosen == "compiled" else programs.host

    def planned(name: str, memory: Memory | None, device: int, host: int = 0) -> PlannedMode:
        places = None if memory is None or memory.basis_size is None else memory.basis_size - width
        products = max_products if places is not None else steps
        if relative_gap is not None:
            products = estimate_products(dimension, num_top, num_bottom, min(tol, COLD_TOL), relative_gap, places)
        return PlannedMode(name, memory, device, host, products, None if budget is None else device <= budget)

    least = least_basis(num_top, num_bottom, width)
    on_mesh = any(isinstance(x.sharding, NamedSharding) for x in jax.tree.leaves(op.struct))
    sizes = [size for size in basis_sizes if least <= size < steps + width]
    modes = [planned("all", ALL, run_bytes(steps + width, ALL))]
    for size in sizes:
        memory = check_memory(Memory(size), num_top, num_bottom, width, dimension)
        modes.append(planned(f"at most {size}", memory, run_bytes(size, memory)))
    spread, plain = (Memory(sharded=sharded).layout(op.struct) if on_mesh else None for sharded in (True, False))
    if spread != plain and spread is not None:
        memory = Memory(sharded=True)
        modes.append(planned(f"over {spread.mesh.size} devices", memory, run_bytes(steps + width, memory)))
    half = Memory(half=True)
    on_host = (steps + width) * tree.size(op.struct) * max(x.dtype.itemsize for x in jax.tree.leaves(work))
    modes.append(planned("on the host", Memory(offload=True), programs.offloaded(), on_host))
    modes.append(planned("bfloat16", half, run_bytes(steps + width, half)))
    modes.append(planned("none", None, programs.without_basis(chosen == "compiled")))
    suitable = [mode for mode in modes if mode.memory is not None and (tol >= _HALF_TOL or not mode.memory.half)]
    recommended = next((mode for mode in suitable if mode.fits and mode.num_products <= max_products), None)
    return Plan(tuple(modes), budget, recommended, relative_gap is not None, chosen)


def _device_budget() -> int | None:
    found = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return None if found is None else int(found)


def _words(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
