"""Two result files side by side: ratios of medians, and which of them are more than noise."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

FLOPS_TOLERANCE = 1e-3
"""Relative change of a FLOP count that is reported: counts do not depend on how busy a machine is."""

_INFORMATION = ("date", "cljax")


def compare(old: Mapping[str, Any], new: Mapping[str, Any], console: Console) -> int:
    """Print a table of new / old for every row that both files have.

    Times differ beyond the spreads where the ranges between their quartiles do not overlap; FLOP counts where they
    differ by more than ``FLOPS_TOLERANCE``.

    Args:
        old: results, as ``harness.read_results`` gives them.
        new: results of the same benchmark.
        console: where to print.

    Returns:
        Number of entries that are flagged.

    Raises:
        ValueError: if the files are of two benchmarks, or have no row in common.
    """
    if old["benchmark"] != new["benchmark"]:
        raise ValueError(f"NEW: expected results of {old['benchmark']!r}, as OLD has, got {new['benchmark']!r}")
    for note in _notes(old, new):
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    rows = list(_pairs(old, new))
    if not rows:
        raise ValueError("NEW: expected a row of the same problem at the same size as in OLD, got none")
    table = Table(title=f"{new['benchmark']}: new / old", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    for heading in ("seconds", "in gradients", "FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    flagged = 0
    for label, before, after in rows:
        cells = [_time_change(before[key], after[key]) for key in ("seconds", "time_in_gradients")]
        cells.append(_flops_change(before["flops"], after["flops"]))
        flagged += sum(bool(flag) for _, flag in cells)
        table.add_row(label, *(f"{text} [bold]{flag}[/]" if flag else text for text, flag in cells))
    console.print(table)
    console.print(f"{flagged} beyond the spreads", highlight=False)
    return flagged


def _notes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What makes the files harder to compare."""
    for key in sorted({*old["environment"], *new["environment"]} - {*_INFORMATION}):
        before, after = (results["environment"].get(key) for results in (old, new))
        if before != after:
            yield f"{key} differs: {before} and {after}"
    for name in sorted({*old["problems"], *new["problems"]}):
        before, after = (results["problems"].get(name) for results in (old, new))
        if before is None or after is None:
            yield f"{name} is in {'NEW' if before is None else 'OLD'} only: left out"
        elif before != after:
            yield f"{name} is of another size: left out"


def _pairs(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Rows of the same name, where the problem is of the same size."""
    rows = {_label(row): row for row in _comparable(old, new)}
    for row in _comparable(new, old):
        if _label(row) in rows:
            yield _label(row), rows[_label(row)], row


def _comparable(results: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    problems = results["problems"]
    return [row for row in results["rows"] if problems[row["problem"]] == other["problems"].get(row["problem"])]


def _label(row: Mapping[str, Any]) -> str:
    return " ".join(row[key] for key in ("problem", "operator", "form")).rstrip()


def _time_change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[str, str]:
    if before is None or after is None:
        return "-", ""
    flag = ""
    if after["lower_quartile"] > before["upper_quartile"]:
        flag = "slower"
    elif after["upper_quartile"] < before["lower_quartile"]:
        flag = "faster"
    return f"{after['median'] / before['median']:.2f}", flag


def _flops_change(before: float | None, after: float | None) -> tuple[str, str]:
    if before is None or after is None:
        return "-", ""
    change = after / before - 1 if before else 0.0
    flag = "" if abs(change) <= FLOPS_TOLERANCE else "more" if change > 0 else "fewer"
    return f"{1 + change:.3f}", flag
