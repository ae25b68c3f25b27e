"""Weak scaling: a Hessian product with as many examples on each device, on 1, 2, 4 and 8 devices.

Operations, bytes and memory are those of one device, from the compiled program and from the arrays of a Lanczos run.
Devices that share cores take turns: then the wall time grows with their number and says nothing of a machine that has
cores for each.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from rich.console import Console

from benchmarks.communication import collectives
from benchmarks.harness import (
    FORMAT,
    Program,
    compile_program,
    prepare_tables,
    spread,
    time_interleaved,
    write_results,
)
from benchmarks.machine import environment
from benchmarks.problems import create_problem
from cljax import curvature, parallel, spectral
from cljax._plan_report import words
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator

DEVICES = (1, 2, 4, 8)
LAYOUTS: dict[str, tuple[str, ...]] = {"whole": (), "split (fsdp)": ("fsdp",)}
NUM_VECTORS = 16
HEADINGS = (
    "parameters",
    "devices",
    "FLOP",
    "collectives",
    "their results",
    "temporary",
    "basis",
    "basis, spread",
    "wall time (quartiles)",
    "of one device",
)


def measure(size: str, num_examples: int, repeats: int) -> list[dict[str, Any]]:
    """Compile and time the products.

    Args:
        size: of the network, see ``benchmarks.problems``.
        num_examples: on each device.
        repeats: timed calls of each program.

    Returns:
        Rows: layout, number of devices; FLOPs, numbers of collectives and bytes of their results, temporary bytes,
        bytes of a Krylov basis as it comes and spread, all of one device; seconds as ``harness.Spread``.

    Raises:
        ValueError: if there are fewer devices.
    """
    if len(jax.devices()) < max(DEVICES):
        raise ValueError(f"devices: expected at least {max(DEVICES)}, got {len(jax.devices())}")
    programs: dict[tuple[str, int], Program] = {}
    rows = []
    for num in DEVICES:
        problem = create_problem("mlp", size, batch_size=num_examples * num)
        mesh = parallel.data_mesh(num)
        batch = parallel.shard_batch(problem.batch, mesh)
        for layout, rules in LAYOUTS.items():
            params = parallel.shard_params(problem.params, mesh, rules)
            op = curvature.hessian(problem.objective, params, batch)
            program = programs[layout, num] = compile_program(_product, op, params)
            moved = collectives(program.compiled)
            kinds = sorted({kind for kind, _ in moved})
            row = {
                "layout": layout,
                "num_devices": num,
                "num_params": problem.config["num_params"],
                "num_examples": num_examples,
                "flops": program.flops,
                "collectives": {kind: sum(k == kind for k, _ in moved) for kind in kinds},
                "collective_bytes": sum(size for _, size in moved),
                "temporary_bytes": program.compiled.memory_analysis().temp_size_in_bytes,
            }
            for name, sharded in (("basis_bytes", False), ("spread_basis_bytes", mesh if num > 1 else False)):
                result = spectral.lanczos(op, jax.random.key(0), NUM_VECTORS, sharded=sharded)
                row[name] = _held(result.basis, mesh)
            rows.append(row)
    seconds = time_interleaved(programs, repeats)
    return [row | {"seconds": dataclasses.asdict(spread(seconds[row["layout"], row["num_devices"]]))} for row in rows]


def markdown(rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """The table with its explanation.

    Args:
        rows: from ``measure``.
        found: the environment.

    Returns:
        Markdown.
    """
    one = {row["layout"]: row["seconds"]["median"] for row in rows if row["num_devices"] == 1}
    parts = [
        "# Weak scaling of a Hessian product",
        "",
        f"An MLP of {rows[0]['num_params']:,} parameters, {rows[0]['num_examples']} examples on each device; JAX "
        f"{found['jax']} on {found['device']}. Written by `python -m benchmarks scaling`. Numbers are those of one "
        "device, from the compiled program; the basis is that of "
        f"{NUM_VECTORS} vectors which a Lanczos run returned, as the parameters lie and with `Memory(sharded=mesh)`.",
        "",
        f"**Wall time: the devices share {found['num_cpus']} cores where they are CPUs**, so that n of them have n "
        "times the work to do on the same cores; on devices of their own the FLOP and bytes of one are what counts.",
        "",
        _line(HEADINGS),
        _line(["---"] * len(HEADINGS)),
    ]
    for row in rows:
        seconds = row["seconds"]
        names = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items()) or "none"
        low, middle, high = (1e3 * seconds[key] for key in ("lower_quartile", "median", "upper_quartile"))
        sizes = ("collective_bytes", "temporary_bytes", "basis_bytes", "spread_basis_bytes")
        cells = [row["layout"], str(row["num_devices"]), words(row["flops"]), names]
        cells += [f"{words(row[name])}B" for name in sizes]
        cells += [f"{middle:.3g} ms ({low:.3g} to {high:.3g})", f"{seconds['median'] / one[row['layout']]:.2f}"]
        parts.append(_line(cells))
    return "\n".join(parts) + "\n"


def write(size: str, num_examples: int, repeats: int, output: pathlib.Path, console: Console) -> None:
    """Measure and write both files.

    Args:
        size: of the network.
        num_examples: on each device.
        repeats: timed calls of each program.
        output: the Markdown file; the JSON file lies beside it.
        console: where to print.
    """
    prepare_tables(output)
    with console.status("compiling and timing"):
        rows = measure(size, num_examples, repeats)
    found = environment()
    output.write_text(markdown(rows, found))
    settings = {"format": FORMAT, "benchmark": "scaling", "repeats": repeats, "environment": found}
    write_results(output.with_suffix(".json"), settings | {"rows": rows})
    for path in (output, output.with_suffix(".json")):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


def _product(op: LinearOperator, v: PyTree) -> PyTree:
    return op @ v


def _held(arrays: PyTree, mesh: Any) -> int:
    """Bytes of arrays on the first device of a mesh."""
    first = mesh.devices.flat[0]
    shards = [shard for x in jax.tree.leaves(arrays) for shard in x.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == first)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
