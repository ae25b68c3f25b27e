"""Tables of estimators against cases, and what is in their cells."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.names import FIXED
from benchmarks.report_rows import (
    Range,
    Row,
    cheapest,
    error_of,
    megabytes_of,
    number,
    seconds_of,
    with_quartiles,
)

Cell = Callable[[list[Row]], Range | None]
"""What is told of the rows of one estimator in one column."""


def table(
    title: str, rows: list[Row], cell: Cell, across: str = "problem", bold: bool = True, spreads: bool = False
) -> str:
    """Estimators down, cases across.

    Args:
        title: above it.
        rows: of one task.
        cell: what is told.
        across: the field of rows that has a column for each of its values.
        bold: mark the least number of each column.
        spreads: show quartiles.

    Returns:
        Markdown; "" where no cell has a number.
    """
    columns = list(dict.fromkeys(row[across] for row in rows))
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    cells = {
        (name, column): cell([row for row in rows if row["estimator"] == name and row[across] == column])
        for name in names
        for column in columns
    }
    columns = [column for column in columns if any(cells[name, column] for name in names)]
    names = [name for name in names if any(cells[name, column] for column in columns)]
    if not columns:
        return ""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in names:
        told = []
        for column in columns:
            known = [cells[n, column] for n in names if n not in FIXED]
            found, best = cells[name, column], min((other[0] for other in known if other), default=None)
            text = with_quartiles(found) if spreads else number(found and found[0])
            told.append(f"**{text}**" if bold and found and found[0] == best and name not in FIXED else text)
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    return f"{title}\n\n" + "\n".join(lines)


def reached(tolerance: float, of: Callable[[Row], Range | None]) -> Cell:
    """A cell with the least cost of runs that were accurate enough.

    Args:
        tolerance: of the error.
        of: the cost of a row.

    Returns:
        The cell.
    """
    return lambda rows: cheapest([row for row in rows if row["status"] == "ok"], tolerance, of)


def least(of: Callable[[Row], Range | None]) -> Cell:
    """A cell with the least number.

    Args:
        of: that of a row.

    Returns:
        The cell.
    """

    def found(rows: list[Row]) -> Range | None:
        values = [of(row) for row in rows if row["status"] in {"ok", "unit"}]
        return min((value for value in values if value is not None), default=None)

    return found


def milliseconds_of(row: Row) -> Range | None:
    """``seconds_of`` in milliseconds, which take fewer digits."""
    found = seconds_of(row)
    return found and (1e3 * found[0], 1e3 * found[1], 1e3 * found[2])


def first_call(rows: list[Row]) -> Range | None:
    """The longest first call of an estimator in a case: one tolerance leaves programs that the next need not compile.

    Args:
        rows: of one estimator in one column.

    Returns:
        Seconds, None where nothing was timed.
    """
    ran = [row for row in rows if row["status"] == "ok"]
    found = [row["first_seconds"] for row in ran if row.get("first_seconds") is not None]
    return (max(found),) * 3 if found else None


def tracked_table(name: str, rows: list[Row], config: Mapping[str, Any]) -> str:
    """A table of one training run: what each estimator took at each of its tolerances or budgets.

    Args:
        name: of the run.
        rows: of the task.
        config: what the run was made of.

    Returns:
        Markdown.
    """
    lines = [f"**{name}**, {config['points']} measurements", ""]
    lines += ["| | asked for | products a measurement | greatest error | share within 0.001 | seconds | peak MB |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        if row["problem"] != name or row["status"] != "ok":
            continue
        share = row["share_within_1e-3"]["median"]
        error, memory = (found and found[0] for found in (error_of(row), megabytes_of(row)))
        products = None if row["products"] is None else row["products"] / config["points"]
        numbers = [row["control"], products, error, share]
        cells = [*map(number, numbers), with_quartiles(seconds_of(row)), number(memory)]
        lines.append(f"| {row['estimator']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(rows: Iterable[Row]) -> str:
    """What is missing, failed, does not apply or was not measured, and where.

    Args:
        rows: of one task.

    Returns:
        Markdown; "" where there is nothing of this kind.
    """
    rows = [row for row in rows if row["status"] != "unit"]
    notes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["status"] in {"missing", "failed", "not applicable"}:
            notes.setdefault((row["estimator"], row["status"], row.get("note", "")), []).append(row["group"])
    names, groups = (dict.fromkeys(row[what] for row in rows) for what in ("estimator", "group"))
    there = {(row["estimator"], row["group"]) for row in rows}
    for name in names:
        if absent := [group for group in groups if (name, group) not in there]:
            notes[name, "not measured", ""] = absent
    lines = []
    for (name, status, note), where in notes.items():
        told = f"{name}: {status}" + (f" ({note})" if note else "")
        lines.append(f"- {told}: {'; '.join(dict.fromkeys(where))}")
    return "Not compared:\n\n" + "\n".join(lines) if lines else ""
