"""Each convolution in the program of a Hessian product, as the program has it and written by rows, and whole products.

Where ``cljax.curvature.row_conv.pays_by_rows`` says that rows pay, and where not, is to be read off here. On CPUs only:
elsewhere nothing is written by rows.
"""

import collections
import dataclasses
from functools import partial
from typing import Any

import jax
from rich.table import Table

from benchmarks.bench_products import create_operator
from benchmarks.harness import Program, compile_program, empty_table, ratio_spread, runner, spread, time_interleaved
from benchmarks.problems import Problem
from cljax import tree
from cljax._typing import Matvec
from cljax.curvature.faster_product import as_it_is, by_rows, operations
from cljax.curvature.row_conv import can_be_by_rows, convolve_by_rows, pays_by_rows

PRODUCTS = ("hessian", "gauss_newton")


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """Time both forms of each convolution, and of each product with those that pay by rows.

    Args:
        problem: the network and its batch.
        repeats: rounds in each of which every program runs once; 0 counts FLOPs alone.

    Returns:
        Rows: problem, operator (what it is), form "yes" or "no" for convolutions that products write by rows or not,
        how often it is there, FLOPs by rows in those of the program as it is; seconds as it is, and the ratio by rows,
        as ``harness.Spread``, None where nothing was timed.
    """
    rows: list[dict[str, Any]] = []
    kinds: dict[str, list[Any]] = collections.defaultdict(list)
    for name in PRODUCTS:
        op = create_operator(name, problem)
        vector = tree.random_like(jax.random.key(1), op.struct)
        plain = as_it_is(jax.jit(_linearize)(op))
        pair = [compile_program(_apply, product, vector) for product in (plain, by_rows(plain))]
        rows.append(_row(problem, name, "product", 1, pair, repeats))
        if name == PRODUCTS[0]:
            for eqn in filter(can_be_by_rows, operations(jax.make_jaxpr(_apply)(plain, vector))):
                kinds[_words(eqn)].append(eqn)
    for words, eqns in kinds.items():
        operands = [jax.random.normal(jax.random.key(2), var.aval.shape, var.aval.dtype) for var in eqns[0].invars]
        pair = [compile_program(partial(fn, eqns[0]), *operands) for fn in (_run, _run_by_rows)]
        form = "yes" if pays_by_rows(eqns[0]) else "no"
        rows.append(_row(problem, words, form, len(eqns), pair, repeats))
    return rows


def _linearize(op: Any) -> Matvec:
    return op.linearize()


def _apply(product: Matvec, v: Any) -> Any:
    return product(v)


def _run(eqn: Any, *operands: Any) -> Any:
    return eqn.primitive.bind(*operands, **eqn.params)


def _run_by_rows(eqn: Any, *operands: Any) -> Any:
    return convolve_by_rows(eqn, operands)


def _words(eqn: Any) -> str:
    """Images, size and channels, the window, size of the results and outputs, and what else tells two apart."""
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    shapes = [
        [var.aval.shape[axis] for axis in axes]
        for var, axes in zip((*eqn.invars, *eqn.outvars), (*numbers,), strict=True)
    ]
    (images, channels, *size), (outputs, _, *window), (_, _, *places) = shapes
    words = f"{_by((images, *size, channels))} * {_by(window)} -> {_by((*places, outputs))}"
    for name, word in (("window_strides", "stride"), ("lhs_dilation", "between"), ("rhs_dilation", "dilation")):
        if any(step != 1 for step in params[name]):
            words += f", {word} {_by(params[name])}"
    return words


def _by(sizes: Any) -> str:
    return "x".join(map(str, sizes))


def _row(problem: Problem, words: str, form: str, count: int, pair: list[Program], repeats: int) -> dict[str, Any]:
    seconds = time_interleaved(dict(enumerate(pair)), repeats) if repeats else None
    flops = [program.flops for program in pair]
    return {
        "problem": problem.name,
        "operator": words,
        "form": form,
        "count": count,
        "flops_ratio": flops[1] / flops[0] if flops[0] and flops[1] is not None else None,
        "seconds": dataclasses.asdict(spread(seconds[0])) if seconds else None,
        "time_ratio": dataclasses.asdict(ratio_spread(seconds[1], seconds[0])) if seconds else None,
    }


def _table(problem: Problem, rows: list[dict[str, Any]]) -> Table:
    title = f"{problem.name}, batch {problem.config['batch_size']}: convolutions by rows"
    table = empty_table(title, ("what", "by rows"), ("times", "ms", "time", "FLOPs"))
    for row in rows:
        seconds, ratio, flops = row["seconds"], row["time_ratio"], row["flops_ratio"]
        table.add_row(
            row["operator"].replace("_", "-"),
            row["form"],
            str(row["count"]),
            "-" if seconds is None else f"{1e3 * seconds['median']:.1f}",
            "-" if ratio is None else f"{ratio['median']:.2f}",
            "-" if flops is None else f"{flops:.3f}",
        )
    return table


run = runner(measure, _table)
