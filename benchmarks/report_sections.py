"""What the report shows of each task: which tables, of which measures."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.names import FIXED
from benchmarks.report_behind import AT_A_BUDGET, TO_A_TOLERANCE, TOLERANCES
from benchmarks.report_rows import (
    Row,
    common_budget,
    error_of,
    gradients_of,
    megabytes_of,
    products_of,
)
from benchmarks.report_tables import Cell, first_call, least, milliseconds_of, reached, table, tracked_table

REACHED = """An error is at most a tolerance where that of every seed is, or, of five seeds and more, of at least three
quarters of them."""
_FIRST = "first call, seconds"


def section(task: str, rows: list[Row], problems: Mapping[str, Any]) -> Iterable[str]:
    """Tables of a task.

    Args:
        task: its name.
        rows: its rows.
        problems: what the cases were made of.

    Yields:
        Markdown, "" for a table that would be empty.
    """
    if task in TO_A_TOLERANCE:
        yield REACHED
        for setting in dict.fromkeys(row["setting"] for row in rows):
            yield from _to_a_tolerance(setting, [row for row in rows if row["setting"] == setting])
    elif task in AT_A_BUDGET:
        yield from _at_a_budget(rows)
    elif task == "tracked":
        yield from (tracked_table(name, rows, problems[name]) for name in dict.fromkeys(row["problem"] for row in rows))
        yield table(_capital(_FIRST), rows, first_call, bold=False)
    else:
        for axis, swept in _sweeps(rows).items():
            words, across = (f"**{axis}**, ", "setting") if axis else ("", "group")
            for title, cell, look in _PLAIN:
                yield table(_capital(words + title), swept, cell, across, **look)


def _sweeps(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the quantity of which the setting has a number ("width 64"); "" where the setting is no number."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        axis, _, value = row["setting"].rpartition(" ")
        found.setdefault(axis if value.isdigit() else "", []).append(row)
    return found


_PLAIN: tuple[tuple[str, Cell, dict[str, bool]], ...] = (
    ("milliseconds", least(milliseconds_of), {"spreads": True}),
    ("time in gradients of cljax, within the same round", least(gradients_of), {"spreads": True}),
    ("peak megabytes", least(megabytes_of), {}),
    ("error", least(error_of), {}),
    (_FIRST, first_call, {"bold": False}),
)
"""Tables of tasks that have neither tolerances nor budgets: titles, cells, and how they look."""


def _to_a_tolerance(setting: str, rows: list[Row]) -> Iterable[str]:
    for tolerance in TOLERANCES if setting == "top 5" else TOLERANCES[1:2]:
        title = f"**{setting}**, fewest products with an error of at most {tolerance:g}"
        yield table(title, rows, reached(tolerance, products_of))
    title = f"**{setting}**, milliseconds of the fastest run with an error of at most 0.001"
    yield table(title, rows, reached(1e-3, milliseconds_of), spreads=True)
    title = f"**{setting}**, peak megabytes of a run with an error of at most 0.001"
    yield table(title, rows, reached(1e-3, megabytes_of))
    yield table(f"**{setting}**, {_FIRST}", rows, first_call, bold=False)


def _at_a_budget(rows: list[Row]) -> Iterable[str]:
    budget = common_budget(rows)
    at = [row for row in rows if row["control"] in {budget, 0} and row["estimator"] not in FIXED]
    words = "" if budget is None else f" with {budget} products"
    yield table(f"Median error{words}", at, least(error_of))
    yield table(f"Milliseconds{words}", at, least(milliseconds_of), spreads=True)
    yield table(f"Peak megabytes{words}", at, least(megabytes_of))
    yield table(_capital(_FIRST), rows, first_call, bold=False)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
