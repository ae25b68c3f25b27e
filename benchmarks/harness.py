"""What all benchmarks share: compiled programs and their FLOPs, interleaved timing, result files.

A time is wall-clock time of one call, from dispatch until its outputs are ready; compilation is apart. The programs of
one comparison take turns in one process, in a new random order each round, so that a busy machine slows all of them
alike; ratios are taken within a round, and every time comes with its quartiles.
"""

import dataclasses
import json
import math
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cljax._typing import PyTree
from cljax.training.config import write_text

Key = TypeVar("Key", bound=Hashable)

FORMAT = 1
"""Version of the layout of result files."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function with its arguments.

    Attributes:
        run: calls it; returns its outputs, which need not be ready. Arguments that are shapes cannot be run.
        flops: of one call, as XLA counts them, or None where the backend does not say. The body of a loop counts once,
            whatever the number of turns, and transcendental functions do not count.
        compile_seconds: tracing and compilation.
        compiled: the program itself, or None for a function of the host.
    """

    run: Callable[[], Any]
    flops: float | None
    compile_seconds: float
    compiled: Any = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """What a list of samples says.

    Attributes:
        median: the median.
        minimum: the least.
        lower_quartile: a quarter of the samples are below.
        upper_quartile: a quarter of the samples are above.
        num_samples: how many there are.
    """

    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float
    num_samples: int


def compile_program(fn: Callable[..., Any], *args: Any) -> Program:
    """Compile a function ahead of time, its matrix products at the highest precision, as those of cljax are.

    Args:
        fn: a function of pytrees of arrays.
        *args: its arguments, or ``jax.ShapeDtypeStruct`` leaves in their place where it is only to be counted.

    Returns:
        The program.
    """
    start = time.perf_counter()
    with jax.default_matmul_precision("highest"):
        compiled = jax.jit(fn).lower(*args).compile()
    seconds = time.perf_counter() - start
    cost: Any = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) and cost else cost
    flops = float((cost or {}).get("flops", -1))
    return Program(lambda: compiled(*args), flops if flops >= 0 else None, seconds, compiled)


def num_bytes(tree: PyTree) -> int:
    """Bytes of all leaves, arrays or ``jax.ShapeDtypeStruct``."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def time_interleaved(programs: Mapping[Key, Program], repeats: int, seed: int = 0) -> dict[Key, list[float]]:
    """Time programs against each other.

    Args:
        programs: what to time, by name; each runs once untimed first.
        repeats: rounds; in each round every program runs once.
        seed: of the order within a round.

    Returns:
        Seconds by name, one for each round.
    """
    for program in programs.values():
        jax.block_until_ready(program.run())
    seconds: dict[Key, list[float]] = {name: [] for name in programs}
    order = list(programs)
    shuffle = random.Random(seed).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            jax.block_until_ready(programs[name].run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def runner(measure: Callable[[Any, int], list[dict[str, Any]]], table: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A suite of networks: measure problem after problem and print a table of each.

    Args:
        measure: ``measure(problem, repeats)`` gives the rows of a problem.
        table: ``table(problem, rows)`` shows them.

    Returns:
        ``run(problems, repeats, console)``, which gives the rows of all; each problem is made only when its turn comes.
    """

    def run(problems: Iterable[Any], repeats: int, console: Any) -> list[dict[str, Any]]:
        rows = []
        for problem in problems:
            with console.status(f"{problem.name}: compiling and timing"):
                new = measure(problem, repeats)
            console.print(table(problem, new))
            rows += new
        return rows

    return run


def empty_table(title: str, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table without rows.

    Args:
        title: above it.
        names: headings of the columns of text.
        numbers: headings of the columns of numbers, which follow.

    Returns:
        The table.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.show_edge, table.pad_edge, table.padding = False, False, (0, 1, 0, 0)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def spread(samples: Sequence[float]) -> Spread:
    """Median, least and quartiles.

    Args:
        samples: at least one number.

    Returns:
        The summary.
    """
    quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return Spread(quartiles[1], min(samples), quartiles[0], quartiles[2], len(samples))


def ratio_spread(samples: Sequence[float], unit: Sequence[float]) -> Spread:
    """Summary of the ratios, round by round.

    Args:
        samples: one number for each round.
        unit: what to divide by, one number for each round.

    Returns:
        The summary.
    """
    return spread([sample / one for sample, one in zip(samples, unit, strict=True)])


def prepare_output(path: pathlib.Path) -> None:
    """Find out that a result file cannot be written before the measurement rather than after it.

    Args:
        path: where the results shall go; its folder is made.

    Raises:
        ValueError: if it is a folder, or nothing can be written to its folder.
    """
    if path.is_dir():
        raise ValueError(f"output: expected a file, got the folder {path}; try {path / 'products.json'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"output: cannot write to {path}: {error.strerror}") from None


def prepare_tables(path: pathlib.Path) -> None:
    """As ``prepare_output``, of tables in Markdown beside which their numbers go as JSON.

    Args:
        path: of the tables.

    Raises:
        ValueError: if it is that of the numbers, or one that ``prepare_output`` refuses.
    """
    if path.suffix == ".json":
        raise ValueError(f"output: expected a Markdown file, whose numbers go to {path}; try {path.with_suffix('.md')}")
    prepare_output(path)


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON; the file is replaced at once or not at all.

    Args:
        path: the file.
        results: what ``json`` takes.
    """
    write_text(path, json.dumps(results, indent=1, allow_nan=False) + "\n")


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """Read what ``write_results`` wrote.

    Args:
        path: the file.

    Returns:
        The results.

    Raises:
        ValueError: if the file is no result file of this layout.
        FileNotFoundError: if there is no such file.
    """
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}; python -m benchmarks run products writes one") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON file of benchmark results, got {error}") from None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        got = results.get("format") if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"{path}: expected benchmark results of format {FORMAT}, got {got}; run the benchmark again")
    if not _whole(results):
        raise ValueError(f"{path}: expected results of a suite with its environment, problems and rows, got others")
    return results


def _whole(results: Mapping[str, Any]) -> bool:
    """Whether all is there that tables and comparisons read."""
    problems, rows = results.get("problems"), results.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return False
    if results.get("benchmark") and not any({"problem", "estimator"} & {*row} for row in rows):
        return True  # a table of no problem
    return (
        isinstance(results.get("benchmark"), str)
        and isinstance(results.get("environment"), dict)
        and isinstance(problems, dict)
        and all({row.get("problem"), row.get("group")} & {*problems} for row in rows)
        and all({"group", "status"} <= {*row} for row in rows if "estimator" in row)
    )
