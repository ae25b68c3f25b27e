"""What the report reads off rows."""

import collections
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Row = dict[str, Any]

FIXED = ("one product", "one gradient")
"""Rows of the unit of time, which is no estimator."""


def is_ours(name: str) -> bool:
    """Whether an estimator is one of this library."""
    return name.split(",")[0].split()[0] == "cljax"


def products_of(row: Row) -> float | None:
    """Products of a run, None where they cannot be counted."""
    return row.get("products")


def seconds_of(row: Row) -> float | None:
    """Median seconds of a run, None where nothing was timed."""
    return row["seconds"]["median"] if row.get("seconds") else None


def gradients_of(row: Row) -> float | None:
    """Median time in gradients of the same batch, None where there are none."""
    return row["time_in_gradients"]["median"] if row.get("time_in_gradients") else None


def megabytes_of(row: Row) -> float | None:
    """Median peak memory of set-up and a run in units of 10^6 bytes, None where it was not measured."""
    return row["peak_bytes"]["median"] / 1e6 if row.get("peak_bytes") else None


def error_of(row: Row) -> float | None:
    """Median error over seeds, None where nothing was scored."""
    return row["error"]["median"] if row.get("error") else None


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


def cheapest(rows: Iterable[Row], tolerance: float, of: Callable[[Row], float | None]) -> float | None:
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
        Of the budgets that more than half as many runs have as the most frequent one, the middle one, of two the greater; None
        where there is no run with a budget.
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
