"""What one curvature product costs, in units of a gradient of the same batch at the same matrix-product precision.

Each product comes in two forms. "fresh" is the program that ``op.mv`` runs: linearize and multiply. "linearized" is
the product alone, ``op.linearize()`` having been done in another program: what each further product costs inside of a
solver. Counting forward and backward pass of a layer as 1 and 2, the gradient is 3; the linearized Hessian product 6,
its tangents each doubling the terms of the forward and backward pass; the Gauss-Newton product 4. The first layer,
whose input has no derivative, costs less, elementwise work more. Hence the targets: 6/3 and 4/3 with a little room.

The tangent kernel J Jᵀ, on the scores, is the same work as the Gauss-Newton product in the other order.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from benchmarks.harness import (
    Program,
    compile_program,
    empty_table,
    num_bytes,
    ratio_spread,
    runner,
    spread,
    time_interleaved,
)
from benchmarks.problems import Problem
from cljax import curvature, tree

TARGETS = {"hessian": 2.0, "gauss_newton": 1.35}
"""Most FLOPs of a linearized product, in gradients."""

OPERATORS = ("hessian", "gauss_newton", "tangent_kernel")
FORMS = ("fresh", "linearized")

_GRADIENT = ("gradient", "")


def create_operator(name: str, problem: Problem) -> curvature.LinearOperator:
    """An operator of a problem.

    Args:
        name: one of ``OPERATORS``.
        problem: the network and its batch.

    Returns:
        The operator.
    """
    if name == "hessian":
        return curvature.hessian(problem.objective, problem.params, problem.batch)
    if name == "gauss_newton":
        return curvature.gauss_newton(problem.apply_fn, problem.loss, problem.params, problem.batch)
    return curvature.tangent_kernel(problem.apply_fn, problem.params, problem.batch.inputs)


def measure(
    problem: Problem,
    repeats: int,
    *,
    operators: Iterable[str] = OPERATORS,
    forms: Sequence[str] = FORMS,
) -> list[dict[str, Any]]:
    """Count and time the products of one problem.

    Args:
        problem: the network and its batch.
        repeats: timed calls of each program; 0 compiles and counts, and runs nothing.
        operators: which of ``OPERATORS``.
        forms: which of ``FORMS``.

    Returns:
        Rows, the gradient first: problem, operator, form; FLOPs, also in gradients, their target and whether it was
        met (None where there is none); seconds and the same in gradients as ``harness.Spread`` (None where nothing was
        timed); seconds of compilation; bytes of the arrays that a linearized product holds.
    """
    gradient = compile_program(jax.grad(problem.objective), problem.params, problem.batch)
    programs: dict[tuple[str, str], tuple[Program, int | None]] = {_GRADIENT: (gradient, None)}
    for name in operators:
        op = create_operator(name, problem)
        vector = tree.random_like(jax.random.key(1), op.struct)
        if "fresh" in forms:
            programs[name, "fresh"] = compile_program(_fresh, op, vector), None
        if "linearized" in forms:
            product = jax.jit(_linearize)(op) if repeats else jax.eval_shape(_linearize, op)
            programs[name, "linearized"] = compile_program(_apply, product, vector), num_bytes(product)
    seconds = time_interleaved({key: program for key, (program, _) in programs.items()}, repeats) if repeats else {}
    return [
        _row(problem, key, program, stored, gradient, seconds.get(key), seconds.get(_GRADIENT))
        for key, (program, stored) in programs.items()
    ]


def _fresh(op: Any, v: Any) -> Any:
    return op.mv(v)


def _linearize(op: Any) -> Any:
    return op.linearize()


def _apply(product: Any, v: Any) -> Any:
    return product(v)


def _row(
    problem: Problem,
    key: tuple[str, str],
    program: Program,
    stored: int | None,
    gradient: Program,
    seconds: list[float] | None,
    unit: list[float] | None,
) -> dict[str, Any]:
    operator, form = key
    ratio = program.flops / gradient.flops if program.flops is not None and gradient.flops else None
    target = TARGETS.get(operator) if form == "linearized" else None
    return {
        "problem": problem.name,
        "operator": operator,
        "form": form,
        "flops": program.flops,
        "flops_in_gradients": ratio,
        "flops_target": target,
        "target_met": None if ratio is None or target is None else ratio <= target,
        "seconds": dataclasses.asdict(spread(seconds)) if seconds else None,
        "time_in_gradients": dataclasses.asdict(ratio_spread(seconds, unit)) if seconds and unit else None,
        "compile_seconds": program.compile_seconds,
        "stored_bytes": stored,
    }


def _table(problem: Problem, rows: list[dict[str, Any]]) -> Table:
    config = problem.config
    sizes = [f"batch {config['batch_size']}", f"{config['num_params']:,} parameters"]
    sizes += [f"{name} {value}" for name, value in config["options"].items()]
    title = f"{problem.name}: {', '.join(sizes)}"
    numbers = ("FLOPs /\ngradient", "target", "time /\ngradient", "quartiles", "median\nms")
    table = empty_table(title, ("product",), numbers)
    for row in rows:
        table.add_row(
            f"{row['operator'].replace('_', '-')} {row['form']}".rstrip(),
            _number(row["flops_in_gradients"], ".3f"),
            _verdict(row),
            *_times(row["time_in_gradients"]),
            _number(row["seconds"] and 1e3 * row["seconds"]["median"], ".2f"),
        )
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    if row["flops_target"] is None:
        return ""
    verdict = {None: "not counted", True: "[green]pass[/]", False: "[red]FAIL[/]"}[row["target_met"]]
    return f"≤ {row['flops_target']:.2f} {verdict}"


def _times(times: Mapping[str, Any] | None) -> tuple[str, str]:
    if times is None:
        return "-", ""
    return f"{times['median']:.2f}", f"{times['lower_quartile']:.2f}-{times['upper_quartile']:.2f}"


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


run = runner(measure, _table)
