"""The report of a folder of results: tables in Markdown, curves as PNG, and where a peer is ahead."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import read_results
from benchmarks.report_behind import AT_A_BUDGET, TO_A_TOLERANCE, TOLERANCES, behind, number
from benchmarks.report_plain import SUMMARIES, plain_table
from benchmarks.report_plots import COSTS, draw_curves
from benchmarks.report_rows import (
    FIXED,
    Row,
    cheapest,
    common_budget,
    error_of,
    gradients_of,
    megabytes_of,
    products_of,
    seconds_of,
)
from benchmarks.tasks import TASKS

REACHED = """An error is at most a tolerance where that of every seed is, or, of five seeds and more, of at least three
quarters of them."""


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Write ``report.md`` and the plots.

    Args:
        folder: has JSON files of suites; those of one task or benchmark each.

    Returns:
        The Markdown file.

    Raises:
        ValueError: if there is no result in it.
    """
    text, pictures = report_of(folder)
    for task, rows in pictures.items():
        for _ in draw_curves(task, rows, folder):
            pass
    path = folder / "report.md"
    path.write_text(text)
    return path


def report_of(folder: pathlib.Path) -> tuple[str, dict[str, list[Row]]]:
    """The text of the report.

    Args:
        folder: has JSON files of suites.

    Returns:
        Markdown, and the rows of the tasks whose curves are drawn.

    Raises:
        ValueError: if there is no result in it.
    """
    everything = {path.stem: read_results(path) for path in sorted(folder.glob("*.json"))}
    found = {name: results for name, results in everything.items() if results["benchmark"] in TASKS}
    if not found:
        raise ValueError(f"folder: expected JSON files of suites in {folder}, got none; run some first")
    pictures: dict[str, list[Row]] = {}
    parts = [f"# Benchmarks: {folder.name}", _environment(everything), behind(found)]
    for name in sorted(found, key=lambda name: list(TASKS).index(found[name]["benchmark"])):
        results = found[name]
        task, rows = results["benchmark"], results["rows"]
        parts.append(f"## {task}\n\n{_capital(TASKS[task].summary)}.")
        parts += list(_section(task, rows, results["problems"]))
        if task in TO_A_TOLERANCE or task in AT_A_BUDGET:
            pictures[task] = rows
            parts += [
                f"![Error of {task} against {cost}]({task}-{cost}.png)"
                for cost in COSTS
                if any(COSTS[cost](row) for row in rows)
            ]
        parts.append(_failures(rows))
    parts += [plain_table(name, results) for name, results in everything.items() if results["benchmark"] in SUMMARIES]
    parts.append(_settings(found.values()))
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def _section(task: str, rows: list[Row], problems: Mapping[str, Any]) -> Iterable[str]:
    if task in TO_A_TOLERANCE:
        yield REACHED
        for setting in dict.fromkeys(row["setting"] for row in rows):
            asked = [row for row in rows if row["setting"] == setting]
            for tolerance in TOLERANCES if setting == "top 5" else TOLERANCES[1:2]:
                title = f"**{setting}**, fewest products with an error of at most {tolerance:g}"
                yield title + "\n\n" + _table(asked, lambda rows, t=tolerance: _fewest(rows, t, products_of))
            title = f"**{setting}**, seconds of the fastest run with an error of at most 0.001"
            yield title + "\n\n" + _table(asked, lambda rows: _fewest(rows, 1e-3, seconds_of))
            title = f"**{setting}**, peak megabytes of a run with an error of at most 0.001"
            yield from _where_known(title, asked, lambda rows: _fewest(rows, 1e-3, megabytes_of))
    elif task in AT_A_BUDGET:
        budget = common_budget(rows)
        if budget is None:
            return
        at = [row for row in rows if row["control"] in {budget, 0}]
        yield f"Median error with {budget} products\n\n" + _table(at, lambda rows: _least(rows, error_of))
        yield f"Seconds with {budget} products\n\n" + _table(at, lambda rows: _least(rows, seconds_of))
        title = f"Peak megabytes with {budget} products"
        yield from _where_known(title, at, lambda rows: _least(rows, megabytes_of))
    elif task == "tracked":
        yield from (_tracked(name, rows, problems[name]) for name in dict.fromkeys(row["problem"] for row in rows))
    else:
        yield "Milliseconds\n\n" + _table(rows, lambda rows: _least(rows, seconds_of, 1e3), by_group=True)
        if any(row.get("time_in_gradients") for row in rows):
            text = "Time in gradients of cljax, within the same round"
            yield f"{text}\n\n" + _table(rows, lambda rows: _least(rows, gradients_of), by_group=True)
        yield from _where_known("Peak megabytes", rows, lambda rows: _least(rows, megabytes_of), by_group=True)
        if any("error" in row for row in rows):
            yield "Error\n\n" + _table(rows, lambda rows: _least(rows, error_of), by_group=True)


def _where_known(title: str, rows: list[Row], cell: Any, by_group: bool = False) -> Iterable[str]:
    """A table of peak memory, of the groups where it was measured."""
    known = {row["group"] for row in rows if megabytes_of(row)}
    if known:
        yield f"{title}\n\n" + _table([row for row in rows if row["group"] in known], cell, by_group)


def _table(rows: list[Row], cell: Any, by_group: bool = False) -> str:
    """Estimators down, cases across; the least number of each column in bold.

    Args:
        rows: of one task.
        cell: ``cell(rows of one estimator in one group)``, a number or None.
        by_group: columns for each group rather than for each case.

    Returns:
        Markdown.
    """
    across = "group" if by_group else "problem"
    columns = list(dict.fromkeys(row[across] for row in rows))
    names = list(dict.fromkeys(row["estimator"] for row in rows if row["status"] != "unit" or by_group))
    numbers: dict[tuple[str, str], Any] = {}
    for name in names:
        for column in columns:
            numbers[name, column] = cell([r for r in rows if r["estimator"] == name and r[across] == column])
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in names:
        if all(numbers[name, column] is None for column in columns):
            continue
        cells = []
        for column in columns:
            best = min((numbers[n, column] for n in names if _counts(n, numbers[n, column])), default=None)
            text = number(numbers[name, column])
            cells.append(f"**{text}**" if text and numbers[name, column] == best else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _counts(name: str, number: Any) -> bool:
    return number is not None and name not in FIXED


def _tracked(name: str, rows: list[Row], config: Mapping[str, Any]) -> str:
    lines = [f"**{name}**, {config['points']} measurements", ""]
    lines += ["| | asked for | products a measurement | greatest error | share within 0.001 | seconds | peak MB |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        if row["problem"] != name or row["status"] != "ok":
            continue
        share = row["share_within_1e-3"]["median"]
        cells = [row["control"], row["products"] / config["points"], error_of(row), share]
        cells += [seconds_of(row), megabytes_of(row)]
        lines.append(f"| {row['estimator']} | " + " | ".join(number(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _fewest(rows: list[Row], tolerance: float, of: Any) -> float | None:
    return cheapest([row for row in rows if row["status"] == "ok"], tolerance, of)


def _least(rows: list[Row], of: Any, scale: float = 1.0) -> float | None:
    values = [of(row) for row in rows if row["status"] in {"ok", "unit"}]
    values = [value for value in values if value is not None]
    return scale * min(values) if values else None


def _failures(rows: list[Row]) -> str:
    notes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["status"] in {"missing", "failed", "not applicable"}:
            notes.setdefault((row["estimator"], row["status"], row.get("note", "")), []).append(row["group"])
    names, groups = (
        dict.fromkeys(row[what] for row in rows if row["status"] != "unit") for what in ("estimator", "group")
    )
    there = {(row["estimator"], row["group"]) for row in rows}
    for name in names:
        if absent := [group for group in groups if (name, group) not in there]:
            notes[name, "not measured", ""] = absent
    lines = []
    for (name, status, note), groups in notes.items():
        where = ", ".join(dict.fromkeys(groups))
        lines.append(f"- {name}: {status}" + (f" ({note})" if note else "") + f": {where}")
    return "Not compared:\n\n" + "\n".join(lines) if lines else ""


def _environment(found: Mapping[str, Any]) -> str:
    lines = []
    for name, results in found.items():
        env = results["environment"]
        described = f"jax {env['jax']} on {env['device']}, {env['num_cpus']} CPUs, {env['dtype']}, {env['date'][:10]}"
        described += f", load {env['load']} at the start" if env.get("load") is not None else ""
        lines.append(f"- {name}: {described}" + (f"; {results['note']}" if results.get("note") else ""))
    return "Times are medians of rounds in each of which every estimator of a case ran once.\n\n" + "\n".join(lines)


def _settings(results: Iterable[Mapping[str, Any]]) -> str:
    lines = ["## How each is set", "", "| task | estimator | version | settings |", "|---|---|---|---|"]
    seen = set()
    for result in results:
        for row in result["rows"]:
            key = (result["benchmark"], row["estimator"])
            if row["status"] != "unit" and key not in seen:
                seen.add(key)
                cells = (*key, row["version"] or "missing", row.get("settings", ""))
                lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
