"""What the structure matrices J Jᵀ of a batch cost, against whole rows of Jacobians and in gradients of the batch.

"whole rows" is ``vmap(jacrev)`` of each example and the product of its rows; "factors" is
``curvature.structure_matrix``, all examples side by side; "centered" is the same on the complement of ones, as softmax
losses need it, which takes K − 1 rows. With K scores and a gradient counted as 3 (forward 1, backward 2), a network of
dense layers needs 1 forward pass and K backward passes through activations: (1 + K) / 3 gradients, hence the target
K / 3 + 1.5. Early convolutions still need their kernel gradients.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from rich.table import Table

from benchmarks.harness import Program, compile_program, empty_table, ratio_spread, runner, spread, time_interleaved
from benchmarks.problems import Problem
from cljax import Batch, curvature
from cljax._typing import PyTree

NUM_EXAMPLES = 128
"""At most so many examples of a problem's batch."""

TARGETS: dict[str, dict[str, float]] = {
    "mlp": {"flops_in_gradients": 10 / 3 + 1.5, "speedup": 20},
    "lenet": {"flops_of_whole_rows": 0.6, "speedup": 5},
    "resnet18": {"flops_of_whole_rows": 0.75},
}
"""For "factors": most FLOPs, in gradients or in those of whole rows, and least speedup over whole rows, by time."""


def whole_rows(apply_fn: Any, params: PyTree, inputs: jax.Array) -> jax.Array:
    """Structure matrices by ``vmap(jacrev)``: (batch, K, K)."""

    def one(x: jax.Array) -> jax.Array:
        rows = jax.jacrev(lambda p: apply_fn(p, x[None])[0])(params)
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(rows)]
        return sum((jnp.matmul(row, row.T) for row in flat), jnp.zeros(()))

    return jax.vmap(one)(inputs)


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """Count and time one problem.

    Args:
        problem: the network and its batch.
        repeats: timed calls of each program; 0 compiles and counts, and runs nothing.

    Returns:
        Rows: problem, operator, form, examples; FLOPs, also in gradients and in those of whole rows; seconds, the same
        in gradients, and the speedup over whole rows, as ``harness.Spread`` (None where nothing was timed); bytes of
        temporaries; seconds of compilation; targets, and which of them were met.
    """
    batch = jax.tree.map(lambda x: x[:NUM_EXAMPLES], problem.batch)
    num = batch.num_examples
    programs = _programs(problem, batch, num)
    seconds = time_interleaved(programs, repeats) if repeats else {}
    return [_row(problem, num, key, programs, seconds) for key in programs]


def _programs(problem: Problem, batch: Batch, num: int) -> dict[tuple[str, str], Program]:
    def matrices(centered: bool) -> Any:
        def found(params: PyTree, inputs: jax.Array) -> jax.Array:
            return curvature.structure_matrix(problem.apply_fn, params, inputs, centered=centered, chunk_size=num)

        return found

    def plain(params: PyTree, inputs: jax.Array) -> jax.Array:
        return whole_rows(problem.apply_fn, params, inputs)

    arguments = problem.params, batch.inputs
    return {
        ("gradient", ""): compile_program(jax.grad(problem.objective), problem.params, batch),
        ("structure", "whole rows"): compile_program(plain, *arguments),
        ("structure", "factors"): compile_program(matrices(False), *arguments),
        ("structure", "centered"): compile_program(matrices(True), *arguments),
    }


def _ratio(value: float | None, unit: float | None) -> float | None:
    return value / unit if value is not None and unit else None


def _row(
    problem: Problem,
    num: int,
    key: tuple[str, str],
    programs: dict[tuple[str, str], Program],
    seconds: dict[tuple[str, str], list[float]],
) -> dict[str, Any]:
    program, gradient, plain = (programs[k] for k in (key, ("gradient", ""), ("structure", "whole rows")))
    timed = seconds.get(key)
    in_gradients = ratio_spread(timed, seconds["gradient", ""]) if timed else None
    speedup = ratio_spread(seconds["structure", "whole rows"], timed) if timed else None
    row = {
        "problem": problem.name,
        "operator": key[0],
        "form": key[1],
        "num_examples": num,
        "flops": program.flops,
        "flops_in_gradients": _ratio(program.flops, gradient.flops),
        "flops_of_whole_rows": _ratio(program.flops, plain.flops),
        "seconds": dataclasses.asdict(spread(timed)) if timed else None,
        "time_in_gradients": dataclasses.asdict(in_gradients) if in_gradients else None,
        "speedup": dataclasses.asdict(speedup) if speedup else None,
        "temporary_bytes": program.compiled.memory_analysis().temp_size_in_bytes,
        "compile_seconds": program.compile_seconds,
    }
    targets = TARGETS.get(problem.name, {}) if key[1] == "factors" else {}
    return row | {
        "targets": targets,
        "targets_met": {name: _is_met(row, name, target) for name, target in targets.items()},
    }


def _is_met(row: dict[str, Any], name: str, target: float) -> bool | None:
    value = row[name]
    if value is None:
        return None
    return value["median"] >= target if name == "speedup" else value <= target


def _table(problem: Problem, rows: list[dict[str, Any]]) -> Table:
    config = problem.config
    title = f"{problem.name}: {rows[0]['num_examples']} examples, {config['num_params']:,} parameters"
    numbers = ("FLOPs /\ngradient", "FLOPs /\nrows", "time /\ngradient", "median\nms", "speed\nup", "temp.\nMB", "")
    table = empty_table(title, ("program",), numbers)
    for row in rows:
        verdicts = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "not timed"}
        table.add_row(
            f"{row['operator']} {row['form']}".rstrip(),
            _number(row["flops_in_gradients"], ".2f"),
            _number(row["flops_of_whole_rows"], ".3f"),
            _number(row["time_in_gradients"] and row["time_in_gradients"]["median"], ".2f"),
            _number(row["seconds"] and 1e3 * row["seconds"]["median"], ".1f"),
            _number(row["speedup"] and row["speedup"]["median"], ".1f"),
            _number(row["temporary_bytes"] / 1e6, ".1f"),
            " ".join(verdicts[met] for met in row["targets_met"].values()),
        )
    return table


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


run = runner(measure, _table)
