"""How long a first call takes, everything compiled anew, beside matfree's; and a command with its programs on disk."""

import dataclasses
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case, Reference
from benchmarks.estimators import ESTIMATORS, Request, load_builtin
from benchmarks.harness import empty_table, spread
from benchmarks.problems import Problem
from cljax import curvature, tree

COMPARED = {
    "top 5": (("extremes", "cljax"), ("extremes", "matfree Lanczos"), ("extremes", "jax lobpcg_standard")),
    "density": (("density", "cljax Lanczos, 4 probes"), ("density", "matfree Lanczos, 4 probes")),
    "trace": (("trace", "cljax XTrace"), ("trace", "matfree XTrace"), ("trace", "traceax XTrace")),
}
"""Estimators of the same thing, by what it is."""

BUDGET, TOLERANCE = 40, 1e-3

PROBLEMS = ("mlp", "lenet")
"""Networks where none are named: a round on the ResNet-18 had not ended after eight minutes on two busy cores."""

BATCH_SIZE = 16
"""Examples, where no other number is given: what is compiled does not depend on them, and what then runs does."""

COMMAND = ("-m", "cljax", "track", "--num-steps", "2", "--measure-every", "2", "--density-probes", "0")


def run(problems: Iterable[Problem], repeats: int, console: Console) -> list[dict[str, Any]]:
    """Measure problem after problem and print a table of each; with the first also the command.

    Args:
        problems: networks; each is made only when its turn comes.
        repeats: first calls of each estimator, each with empty caches; at most 3 are made.
        console: where to print.

    Returns:
        Rows: problem, operator (what is estimated), form (by which estimator), seconds of the first call and of the
        second as ``harness.Spread``.
    """
    rows = []
    for problem in problems:
        with console.status(f"{problem.name}: compiling"):
            new = measure(problem, min(repeats, 3))
            if problem.name == "mlp" and repeats:
                new += measure_command(problem.name, min(repeats, 3))
        console.print(_table(problem, new))
        rows += new
    return rows


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """First calls, in a new random order each round.

    Args:
        problem: the network and its batch.
        repeats: rounds; 0 measures nothing.

    Returns:
        The rows.
    """
    load_builtin()
    op = curvature.hessian(problem.objective, problem.params, problem.batch)
    case = Case(problem.name, problem.config | {"dimension": tree.size(op.struct)}, op, _no_reference)
    request = Request(case, budget=BUDGET, tolerance=TOLERANCE, num_top=5)
    chosen = [(what, ESTIMATORS[key]) for what, keys in COMPARED.items() for key in keys]
    chosen = [(what, found) for what, found in chosen if found.version is not None]
    first: dict[int, list[float]] = {i: [] for i in range(len(chosen))}
    second: dict[int, list[float]] = {i: [] for i in range(len(chosen))}
    order = list(first)
    shuffle = random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for i in order:
            jax.clear_caches()
            start = time.perf_counter()
            call = chosen[i][1].setup(request)
            call(0)
            first[i].append(time.perf_counter() - start)
            start = time.perf_counter()
            call(0)
            second[i].append(time.perf_counter() - start)
    return [
        _row(problem.name, what, found.name, first[i], second[i]) | {"version": found.version}
        for i, (what, found) in enumerate(chosen)
        if first[i]
    ]


def measure_command(problem: str, repeats: int) -> list[dict[str, Any]]:
    """Seconds of a short ``cljax track``, imports included: with no programs on disk, and again.

    Args:
        problem: name that the rows carry.
        repeats: pairs of commands.

    Returns:
        Four rows: until its first row of measurements is written, and until its end.
    """
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder, "cache")
            options = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            for which in ("first", "second"):
                first_row, end = _run_command(pathlib.Path(folder, which), os.environ | options)
                seconds.setdefault(f"cljax track, {which}, to its first row", []).append(first_row)
                seconds.setdefault(f"cljax track, {which}", []).append(end)
    return [_row(problem, "command", name, found, found) for name, found in seconds.items()]


def _run_command(run_dir: pathlib.Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first row of a run and to its end."""
    metrics, first_row = run_dir / "metrics.jsonl", None

    def written() -> bool:
        return metrics.exists() and metrics.stat().st_size > 0

    start = time.perf_counter()
    command = [sys.executable, *COMMAND, "--run-dir", str(run_dir)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            if first_row is None and written():
                first_row = time.perf_counter() - start
            time.sleep(0.01)
        end = time.perf_counter() - start
        if process.returncode or not written():
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output.read().decode()}")
    return end if first_row is None else first_row, end


def _no_reference() -> Reference:
    raise ValueError("nothing is scored here")


def _row(problem: str, what: str, name: str, first: list[float], second: list[float]) -> dict[str, Any]:
    return {
        "problem": problem,
        "operator": what,
        "form": name,
        "seconds": dataclasses.asdict(spread(first)),
        "second_call_seconds": dataclasses.asdict(spread(second)),
    }


def _table(problem: Problem, rows: list[dict[str, Any]]) -> Table:
    title = f"{problem.name}: {problem.config['num_params']:,} parameters, {BUDGET} products"
    table = empty_table(title, ("what", "estimator"), ("first call\ns", "quartiles", "second call\ns"))
    for row in rows:
        seconds = row["seconds"]
        quartiles = f"{seconds['lower_quartile']:.2f}-{seconds['upper_quartile']:.2f}"
        again = f"{row['second_call_seconds']['median']:.3f}"
        table.add_row(row["operator"], row["form"], f"{seconds['median']:.2f}", quartiles, again)
    return table
