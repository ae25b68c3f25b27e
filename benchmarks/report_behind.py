"""Where a peer did better than the best of ours: the same measure, in the same group, beyond the spreads."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.report_rows import Row, common_budget, groups_of, is_ours, reached_by

TOLERANCES = (1e-2, 1e-3, 1e-5)
TO_A_TOLERANCE = ("extremes",)
AT_A_BUDGET = ("density", "trace", "diagonal")

Range = tuple[float, float, float]
"""Median and quartiles."""

_HEAD = """## Where a peer is ahead

The best of ours against the best of theirs, where the quartiles of the two do not overlap (times, errors) or counts of
products differ."""


def behind(found: Mapping[str, Any]) -> str:
    """A table of all such places.

    Args:
        found: results of tasks by name.

    Returns:
        Markdown.
    """
    lines = ["| task | case | measure | ours against theirs | ours | theirs |", "|---|---|---|---|---|---|"]
    for results in found.values():
        task, measures = results["benchmark"], list(_measures(results["benchmark"], results["rows"]))
        for group, rows in groups_of(results["rows"]).items():
            for measure, unit, of, counts in measures:
                kept = [row for row in rows if row["status"] == "ok" and counts(row) and of(row) is not None]
                ours, theirs = (
                    min(
                        (row for row in kept if is_ours(row["estimator"]) == mine), key=lambda r: of(r)[0], default=None
                    )
                    for mine in (True, False)
                )
                if theirs is None or (ours is not None and of(ours)[1] <= of(theirs)[2]):
                    continue
                told = f"{number(of(ours)[0]) if ours else 'not reached'} against {number(of(theirs)[0])}{unit}"
                names = f"{ours['estimator'] if ours else ''} | {theirs['estimator']}"
                lines.append(f"| {task} | {group} | {measure} | {told} | {names} |")
    return _HEAD + "\n\n" + ("\n".join(lines) if len(lines) > 2 else "Nowhere.")


def _measures(task: str, rows: list[Row]) -> Iterable[tuple[str, str, Any, Any]]:
    """Measures of a task: name, unit, the range of a row, and whether a row counts."""
    if task in TO_A_TOLERANCE:
        for tolerance in TOLERANCES:
            yield f"products to {tolerance:g}", "", _products, _within(tolerance)
        yield "seconds to 0.001", " s", _seconds, _within(1e-3)
    elif task in AT_A_BUDGET:
        budget = common_budget(rows)
        yield f"error with {budget} products", "", _error, lambda row: row["control"] == budget
    elif task == "tracked":
        yield "products, all within 0.001", "", _products, _within(1e-3)
        yield "seconds, all within 0.001", " s", _seconds, _within(1e-3)
    else:
        yield "time", " s", _seconds, lambda row: True


def _within(tolerance: float) -> Any:
    return lambda row: (error := reached_by(row)) is not None and error <= tolerance


def _products(row: Row) -> Range | None:
    count = row.get("products")
    return None if count is None else (count, count, count)


def _seconds(row: Row) -> Range | None:
    return _range(row.get("seconds"))


def _error(row: Row) -> Range | None:
    return _range(row.get("error"))


def _range(spread: Mapping[str, float] | None) -> Range | None:
    return None if not spread else (spread["median"], spread["lower_quartile"], spread["upper_quartile"])


def number(value: Any) -> str:
    """A number in a table, to two or three digits; None as nothing."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" if value < 10 else f"{value:.1f}"
