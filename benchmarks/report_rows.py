"""What the report reads off rows."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Row = dict[str, Any]

Range = tuple[float, float, float]
"""Median and quartiles."""


def is_ours(name: str) -> bool:
    """Whether an estimator is one of this library."""
    return name.split(",")[0].split()[0] == "cljax"


def products_of(row: Row) -> Range | None:
    """Products of a run, None where they cannot be counted."""
    count = row.get("products")
    return None if count is None else (count, count, count)


def seconds_of(row: Row) -> Range | None:
    """Seconds of a run, None where nothing was timed."""
    return _range(row.get("seconds"))


def gradients_of(row: Row) -> Range | None:
    """Time in gradients of the same batch, None where there are none."""
    return _range(row.get("time_in_gradients"))


def megabytes_of(row: Row) -> Range | None:
    """Peak memory of set-up and a run in units of 10^6 bytes, None where it was not measured."""
    return _range(row.get("peak_bytes"), 1e-6)


def error_of(row: Row) -> Range | None:
    """Error over seeds, None where nothing was scored."""
    return _range(row.get("error"))


def _range(spread: Mapping[str, float] | None, scale: float = 1.0) -> Range | None:
    if not spread:
        return None
    return scale * spread["median"], scale * spread["lower_quartile"], scale * spread["upper_quartile"]


def reached_by(row: Row) -> float | None:
    """The error that no seed of up to four exceeds, and of more at least three quarters do not.

    Args:
        row: with all errors, or with a summary alone, from which those of up to three seeds can be told.

    Returns:
        The error, None where nothing was scored.
    """
    error = row.get("error")
    if not error:
        return None
    if "samples" in error:
        return float(np.quantile(error["samples"], 0.75, method="higher"))
    if error["num_samples"] == 3:  # the upper quartile is halfway from the median to the greatest
        return 2 * error["upper_quartile"] - error["median"]
    if error["num_samples"] == 2:
        return 2 * error["median"] - error["minimum"]
    return error["upper_quartile"]


def cheapest(rows: Iterable[Row], tolerance: float, of: Callable[[Row], Range | None]) -> Range | None:
    """The least cost of runs that were accurate enough.

    Args:
        rows: runs of one estimator, status "ok".
        tolerance: most that ``reached_by`` may be.
        of: the cost of a row.

    Returns:
        The cost, None if none was accurate enough or none has a cost.
    """
    costs = [of(row) for row in rows if (error := reached_by(row)) is not None and error <= tolerance]
    return min((cost for cost in costs if cost is not None), default=None)


def common_budget(rows: Iterable[Row]) -> int | None:
    """The number of products at which the estimators of a task are compared.

    Args:
        rows: of one task.

    Returns:
        Of the budgets that more than half as many runs have as the most frequent one, the middle one, of two the
        greater; None where there is no run with a budget.
    """
    found = collections.Counter(
        row["control"] for row in rows if row["status"] == "ok" and row["kind_of_control"] == "budget"
    )
    shared = sorted(budget for budget, count in found.items() if 2 * count > max(found.values()))
    return int(shared[len(shared) // 2]) if shared else None


def groups_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their group, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return found


def number(value: Any) -> str:
    """A number in a table, to two or three digits; None as nothing."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" if value < 10 else f"{value:.1f}"


def with_quartiles(found: Range | None) -> str:
    """A median in a table, with its quartiles where they are others in the digits shown; None as nothing."""
    if found is None:
        return ""
    median, *quartiles = map(number, found)
    return median if {*quartiles} == {median} else f"{median} ({'–'.join(quartiles)})"
