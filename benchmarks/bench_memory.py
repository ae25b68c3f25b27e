"""Bytes that each way to keep the Lanczos vectors takes, by XLA's analysis of the compiled program, beside matfree's.

Arguments and results are not counted, only what the program holds besides; a vector is as long as the parameters. What
differentiation stores is part of it, the same in all rows of a network. A basis in the host's memory takes the host
loop, which is several programs: its bytes on the device are those of ``spectral.plan``, from the analysis of each of
them. Vectors in bfloat16 are not restarted, and those that are spread take more than one device: neither is there.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
from rich.console import Console

from benchmarks.estimators.request import flat_product
from benchmarks.harness import empty_table, num_bytes
from benchmarks.problems import Problem
from cljax import curvature, spectral, tree

STEPS, NUM_TOP = 60, 3


def _top(op: Any, key: jax.Array, memory: spectral.Memory) -> Any:
    options: dict[str, Any] = {"num_top": NUM_TOP, "max_products": STEPS, "driver": "compiled", "memory": memory}
    return spectral.extreme_eigenpairs(op, key, **options).values


def _density(op: Any, key: jax.Array, reorthogonalize: bool) -> Any:
    options: dict[str, Any] = {"num_probes": 1, "num_steps": STEPS, "driver": "compiled"}
    return spectral.spectral_density(op, key, reorthogonalize=reorthogonalize, **options).nodes


def _chebyshev(op: Any, key: jax.Array) -> Any:
    return spectral.chebyshev_density(op, key, num_probes=1, degree=2 * STEPS, driver="compiled").chebyshev_moments


def _matfree(op: Any, key: jax.Array, reortho: str) -> Any:
    from matfree import decomp, eig

    start = jax.random.normal(key, (tree.size(op.struct),))
    return eig.eigh_partial(decomp.tridiag_sym(STEPS, reortho=reortho))(flat_product(op), start)[0]


def _one_product(op: Any, key: jax.Array) -> Any:
    return op.linearize()(tree.random_like(key, op.struct))


ON_HOST = f"top {NUM_TOP}, vectors on the host"


def _on_host(op: Any) -> tuple[int, int]:
    """Bytes besides the operator on the device, and bytes on the host, while the basis is there."""
    planned = spectral.plan(op, num_top=NUM_TOP, max_products=STEPS, basis_sizes=(), driver="host")
    mode = next(mode for mode in planned.modes if mode.memory is not None and mode.memory.offload)
    return mode.device_bytes - num_bytes(op), mode.host_bytes


def programs() -> Iterator[tuple[str, Any]]:
    """Programs by name, called as ``program(op, key)``; those of matfree where it is installed."""
    yield "one product", _one_product
    yield f"top {NUM_TOP}, all vectors", partial(_top, memory=spectral.Memory())
    yield f"top {NUM_TOP}, bfloat16 vectors", partial(_top, memory=spectral.Memory(half=True))
    yield f"top {NUM_TOP}, 20 vectors", partial(_top, memory=spectral.Memory(basis_size=20))
    yield "density, all vectors", partial(_density, reorthogonalize=True)
    yield "density, three-term", partial(_density, reorthogonalize=False)
    yield "density, Chebyshev", _chebyshev
    if _has_matfree():
        yield "matfree eigh_partial, reortho full", partial(_matfree, reortho="full")
        yield "matfree eigh_partial, reortho none", partial(_matfree, reortho="none")


def _has_matfree() -> bool:
    import importlib.util

    return importlib.util.find_spec("matfree") is not None


def measure(problem: Problem, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compile each program and read its bytes; nothing runs.

    Args:
        problem: the network and its batch.
        names: of ``programs``, and ``ON_HOST``; all where empty.

    Returns:
        Rows: problem, operator (the program), bytes, the same in vectors of the parameters, and bytes on the host of
        what has vectors there.
    """
    op = curvature.hessian(problem.objective, problem.params, problem.batch)
    vector = num_bytes(problem.params)
    rows = []
    for name, program in programs():
        if names and name not in names:
            continue
        with jax.default_matmul_precision("highest"):
            compiled = jax.jit(program).lower(op, jax.random.key(0)).compile()
        found: Any = compiled.memory_analysis()
        held = None if found is None else int(found.temp_size_in_bytes)
        rows.append(_row(problem, name, held, vector))
    if not names or ON_HOST in names:
        held, on_host = _on_host(op)
        rows.append(_row(problem, ON_HOST, held, vector) | {"host_bytes": on_host})
    return rows


def _row(problem: Problem, name: str, held: int | None, vector: int) -> dict[str, Any]:
    in_vectors = None if held is None else held / vector
    return {"problem": problem.name, "operator": name, "bytes": held, "vectors": in_vectors}


def run(problems: Iterable[Problem], repeats: int, console: Console) -> list[dict[str, Any]]:
    """Measure problem after problem and print a table of each.

    Args:
        problems: networks; each is made only when its turn comes.
        repeats: not used: nothing runs.
        console: where to print.

    Returns:
        The rows of all.
    """
    del repeats
    rows = []
    for problem in problems:
        with console.status(f"{problem.name}: compiling"):
            new = measure(problem)
        title = f"{problem.name}: {problem.config['num_params']:,} parameters, {STEPS} products"
        table = empty_table(title, ("program",), ("MiB", "vectors"))
        for row in new:
            known = row["bytes"] is not None
            table.add_row(
                row["operator"], *((f"{row['bytes'] / 2**20:.1f}", f"{row['vectors']:.1f}") if known else "-")
            )
        console.print(table)
        rows += new
    return rows
