"""The report of a folder of results: tables in Markdown, curves as PNG, and where a peer is ahead."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import read_results
from benchmarks.report_behind import AT_A_BUDGET, TO_A_TOLERANCE, behind
from benchmarks.report_environment import environments
from benchmarks.report_plain import SUMMARIES, plain_table
from benchmarks.report_plots import costs_of, draw_curves
from benchmarks.report_rows import Row
from benchmarks.report_sections import section
from benchmarks.report_tables import failures
from benchmarks.tasks import TASKS

TIMES = """Times are medians of rounds in each of which every estimator of a case ran once, and the brackets have their
quartiles, where these are not the same in the digits shown; so have the bars in plots, of errors over seeds too.

A first call is set-up, compilation and a run, the longest of an estimator over its tolerances or budgets. Programs that
another case, tolerance, budget or estimator left in the process are not compiled again: a short first call, where
programs are shared, is no merit."""

MEASURED = "Groups of cases were measured in these environments, on these days, at these loads of the machine:"


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Write ``report.md`` and the plots.

    Args:
        folder: has JSON files of suites, one or more of each.

    Returns:
        The Markdown file.

    Raises:
        ValueError: if there is no result in it.
    """
    text, pictures = report_of(folder)
    for name, rows in pictures.items():
        for _ in draw_curves(name, rows, folder):
            pass
    path = folder / "report.md"
    path.write_text(text)
    return path


def report_of(folder: pathlib.Path) -> tuple[str, dict[str, list[Row]]]:
    """The text of the report.

    Args:
        folder: has JSON files of suites.

    Returns:
        Markdown, and the rows of the files whose curves are drawn.

    Raises:
        ValueError: if there is no result in it.
    """
    everything = {path.stem: read_results(path) for path in sorted(folder.glob("*.json"))}
    everything = {name: results for name, results in everything.items() if results["benchmark"] in (*TASKS, *SUMMARIES)}
    found = {name: results for name, results in everything.items() if results["benchmark"] in TASKS}
    plain = {name: results for name, results in everything.items() if results["benchmark"] in SUMMARIES}
    if not everything:
        raise ValueError(f"folder: expected JSON files of suites in {folder}, got none; run some first")
    pictures: dict[str, list[Row]] = {}
    parts = [f"# Benchmarks: {folder.name}", TIMES, MEASURED, environments(everything), behind(found) if found else ""]
    for name in sorted(found, key=lambda name: list(TASKS).index(found[name]["benchmark"])):
        results = found[name]
        task, rows = results["benchmark"], results["rows"]
        parts.append(f"## {name}\n\n{_capital(TASKS[task].summary)}.")
        parts += list(section(task, rows, results["problems"]))
        if task in TO_A_TOLERANCE or task in AT_A_BUDGET:
            pictures[name] = rows
            parts += [f"![Error of {name} against {cost}]({name}-{cost}.png)" for cost in costs_of(rows)]
        parts.append(failures(rows))
    parts += [plain_table(name, results) for name, results in plain.items()]
    parts.append(_settings(found.values()) if found else "")
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def _settings(results: Iterable[Mapping[str, Any]]) -> str:
    lines = ["## How each is set", "", "| task | estimator | version | settings |", "|---|---|---|---|"]
    seen = set()
    for result in results:
        for row in result["rows"]:
            key = (result["benchmark"], row["estimator"])
            if row["status"] != "unit" and key not in seen:
                seen.add(key)
                cells = (*key, row["version"] or "missing", row.get("settings", ""))
                lines.append(
                    "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"
                )
    return "\n".join(lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
