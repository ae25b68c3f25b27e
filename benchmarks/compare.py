"""Two result files side by side: ratios of medians, and which of them are more than noise."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.harness import empty_table
from benchmarks.reading import config_of, title_of
from benchmarks.report_environment import differences

FLOPS_TOLERANCE = 1e-3
"""Relative change of a FLOP count that is reported: counts do not depend on how busy a machine is."""

FIRST_TOLERANCE = 0.5
"""Relative change of a first call that is reported: it is timed once and has no spread."""

_NAMED = 8
"""Rows of one file alone that a note names."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any], console: Console) -> int:
    """Print new / old of every row that both files have, a table for each problem.

    Times, peak bytes and errors differ beyond the spreads where the ranges between their quartiles do not overlap;
    counts of FLOPs, bytes and products where they differ by more than ``FLOPS_TOLERANCE``; first calls, single times,
    where they do by more than ``FIRST_TOLERANCE``.

    Args:
        old: results, as ``harness.read_results`` gives them.
        new: results of the same benchmark.
        console: where to print.

    Returns:
        Number of entries that are flagged.

    Raises:
        ValueError: if the files are of two benchmarks or of none with problems, or have no row in common.
    """
    if old["benchmark"] != new["benchmark"]:
        raise ValueError(f"NEW: expected results of {old['benchmark']!r}, as OLD has, got {new['benchmark']!r}")
    if not old.get("problems") or not new.get("problems"):
        raise ValueError(
            f"OLD, NEW: expected results of suites, got tables of {new['benchmark']!r}, which have no problems"
        )
    for note in _notes(old, new):
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    rows = list(_pairs(old, new))
    if not rows:
        raise ValueError("NEW: expected a row of the same problem at the same size as in OLD, got none")
    shown = [column for column in _COLUMNS if any(column.key in row for _, _, *pair in rows for row in pair)]
    flagged = 0
    for title in dict.fromkeys(title for title, *_ in rows):
        words = f"{new['benchmark']}, {title}: new / old"
        table = empty_table(escape(words), ("what",), (column.heading for column in shown))
        for label, before, after in (row for of, *row in rows if of == title):
            cells = [column.change(before.get(column.key), after.get(column.key)) for column in shown]
            flagged += sum(bool(flag) for _, flag in cells)
            table.add_row(escape(label), *(f"{text} [bold]{flag}[/]" if flag else text for text, flag in cells))
        console.print(table)
    console.print(f"{flagged} beyond the spreads", highlight=False)
    return flagged


def _notes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What makes the files harder to compare."""
    yield from differences(old, new)
    before, after = (_sizes(results) for results in (old, new))
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            yield f"{name} is in {'OLD' if name in before else 'NEW'} only: left out"
        elif left_out := before[name] ^ after[name]:
            some = "" if left_out == before[name] | after[name] else "some of "
            yield f"{some}{name} is of another size: left out"
    kept = [{_words(row): row.get("status", "ok") for row in _comparable(*pair)} for pair in ((old, new), (new, old))]
    for there, missing, word in ((*kept, "OLD"), (*reversed(kept), "NEW")):
        if only := [label for label in there if label not in missing]:
            more = f"; and {len(only) - _NAMED} more" if len(only) > _NAMED else ""
            yield f"in {word} only, left out: {'; '.join(only[:_NAMED])}{more}"
    for label in kept[0]:
        if kept[0][label] != (after := kept[1].get(label, kept[0][label])):
            yield f"{label} was {kept[0][label]}, is {after}"


def _sizes(results: Mapping[str, Any]) -> dict[str, set[str]]:
    """What the problems of each name were made of."""
    found: dict[str, set[str]] = {}
    for row in results["rows"]:
        found.setdefault(row["problem"], set()).add(_size(results, row))
    return found


def _size(results: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return json.dumps(config_of(results, row), sort_keys=True)


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Rows of the same name and size: the problem, the rest of the name, and both rows."""
    rows = {(_label(row), _size(old, row)): row for row in old["rows"]}
    for row in new["rows"]:
        key = _label(row), _size(new, row)
        if key in rows:
            yield title_of(new, row), " ".join(part for part in key[0][1:] if part), rows[key], row


def _comparable(results: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Rows of problems that both have at the same size."""
    sizes = _sizes(other)
    return [row for row in results["rows"] if _size(results, row) in sizes.get(row["problem"], set())]


def _words(row: Mapping[str, Any]) -> str:
    return " ".join(part for part in _label(row) if part)


def _label(row: Mapping[str, Any]) -> tuple[str, ...]:
    keys = ("problem", "setting", "operator", "form", "estimator", "control")
    return tuple(str(row[key]) for key in keys if key in row)


def _spread_change(
    words: tuple[str, str], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[str, str]:
    if before is None or after is None:
        return "-", ""
    flag = ""
    if after["lower_quartile"] > before["upper_quartile"]:
        flag = words[0]
    elif after["upper_quartile"] < before["lower_quartile"]:
        flag = words[1]
    return f"{after['median'] / before['median']:.2f}" if before["median"] else "-", flag


def _number_change(
    words: tuple[str, str], tolerance: float, before: float | None, after: float | None
) -> tuple[str, str]:
    if before is None or after is None:
        return "-", ""
    ratio = after / before if before else 1.0
    flag = words[0] if ratio > 1 + tolerance else words[1] if ratio < 1 / (1 + tolerance) else ""
    return f"{ratio:.3f}", flag


@dataclasses.dataclass(frozen=True)
class _Column:
    key: str
    heading: str
    change: Callable[[Any, Any], tuple[str, str]]


_TIME = partial(_spread_change, ("slower", "faster"))
_COUNT = partial(_number_change, ("more", "fewer"), FLOPS_TOLERANCE)
_COLUMNS = (
    _Column("seconds", "seconds", _TIME),
    _Column("first_seconds", "first\ncall", partial(_number_change, ("slower", "faster"), FIRST_TOLERANCE)),
    _Column("time_in_gradients", "in\ngradients", _TIME),
    _Column("flops", "FLOPs", _COUNT),
    _Column("bytes", "bytes", _COUNT),
    _Column("peak_bytes", "peak\nbytes", partial(_spread_change, ("more", "fewer"))),
    _Column("products", "products", _COUNT),
    _Column("error", "error", partial(_spread_change, ("worse", "better"))),
)
