"""Where a peer did better than the best of ours: the same measure, in the same group, beyond the spreads."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.report_rows import (
    Range,
    Row,
    common_budget,
    error_of,
    groups_of,
    is_ours,
    megabytes_of,
    products_of,
    reached_by,
    seconds_of,
    with_quartiles,
)

TOLERANCES = (1e-2, 1e-3, 1e-5)
TO_A_TOLERANCE = ("extremes",)
AT_A_BUDGET = ("density", "trace", "diagonal")

_HEAD = """## Where a peer is ahead

The best of ours against the best of theirs, wherever the quartiles of the two do not overlap (seconds, errors, peak
memory) or counts of products differ, of all comparisons with a peer that has an answer. With a number of products,
seconds and memory are the least of any estimator that takes it, whatever its error."""

_COLUMNS = "| task | case | measure | ours | theirs | our best | their best |\n|---|---|---|---:|---:|---|---|\n"


@dataclasses.dataclass(frozen=True)
class _Measure:
    """What is compared.

    Attributes:
        kind: of what, a heading.
        words: at which tolerance or budget.
        of: its range in a row.
        counts: whether a row counts.
    """

    kind: str
    words: str
    of: Callable[[Row], Range | None]
    counts: Callable[[Row], bool]


def behind(found: Mapping[str, Any]) -> str:
    """Tables of all such places, one for each kind of measure.

    Args:
        found: results of tasks by name of their file.

    Returns:
        Markdown.
    """
    lines: dict[str, list[str | None]] = {kind: [] for kind in ("Products", "Error", *dict(_COSTS))}
    for name, results in found.items():
        measures = list(_measures(results["benchmark"], results["rows"]))
        for measure in measures:
            for group, rows in groups_of(results["rows"]).items():
                if not any(row["status"] == "ok" and is_ours(row["estimator"]) for row in rows):
                    continue  # none of ours was measured: not reached would be more than is known
                kept = [row for row in rows if row["status"] == "ok" and measure.counts(row) and measure.of(row)]
                ours, theirs = (_best(kept, mine, measure.of) for mine in (True, False))
                if theirs is not None:
                    told = _told(ours, theirs, measure)
                    line = told and f"| {name} | {group} | {measure.words} | {told} |"
                    lines[measure.kind].append(line)
    return "\n\n".join([_HEAD, *(_part(kind, lines[kind]) for kind in lines if lines[kind])])


def _part(kind: str, lines: list[str | None]) -> str:
    there = [line for line in lines if line]
    head = f"**{kind}**: {len(there)} of {len(lines)}"
    return f"{head}\n\n{_COLUMNS}" + "\n".join(there) if there else head


def _best(rows: list[Row], mine: bool, of: Any) -> Row | None:
    return min((row for row in rows if is_ours(row["estimator"]) == mine), key=lambda row: of(row)[0], default=None)


def _told(ours: Row | None, theirs: Row, measure: _Measure) -> str | None:
    """Numbers and names, None where ours is not behind."""
    least: Any = measure.of(theirs)
    own: Any = None if ours is None else measure.of(ours)
    if own is not None and own[1] <= least[2]:
        return None
    names = f"{'' if ours is None else ours['estimator']} | {theirs['estimator']}"
    return f"{with_quartiles(own) or 'not reached'} | {with_quartiles(least)} | {names}"


def _measures(task: str, rows: list[Row]) -> Iterable[_Measure]:
    if task in AT_A_BUDGET:
        budget = common_budget(rows)
        words = f"with {budget} products"
        yield _Measure("Error", words, error_of, lambda row: row["control"] == budget)
        for kind, of in _COSTS:
            yield _Measure(kind, words, of, lambda row: row["control"] == budget)
    elif task in TO_A_TOLERANCE or task == "tracked":
        for tolerance in TOLERANCES if task in TO_A_TOLERANCE else TOLERANCES[1:2]:
            yield _Measure("Products", f"to {tolerance:g}", products_of, _within(tolerance))
        for kind, of in _COSTS:
            yield _Measure(kind, "to 0.001", of, _within(1e-3))
    else:
        for kind, of in _COSTS:
            yield _Measure(kind, "", of, lambda row: True)


_COSTS = (("Seconds", seconds_of), ("Peak megabytes", megabytes_of))


def _within(tolerance: float) -> Callable[[Row], bool]:
    return lambda row: (error := reached_by(row)) is not None and error <= tolerance
