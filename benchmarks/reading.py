"""What a result file says of its rows besides what stands in them."""

from collections.abc import Mapping
from typing import Any


def group_of(row: Mapping[str, Any]) -> str:
    """Key of the rows that were timed against a row."""
    return row.get("group", row["problem"])


def config_of(results: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the problem of a row was made of.

    Args:
        results: of the file.
        row: of the results.

    Returns:
        The configuration, kept by group or by problem.
    """
    problems = results["problems"]
    return problems[group_of(row)] if group_of(row) in problems else problems.get(row["problem"], {})


def title_of(results: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The problem of a row in words.

    Args:
        results: of the file.
        row: of the results.

    Returns:
        Its name, with the number of examples that were measured and the width where there is one.
    """
    config = config_of(results, row)
    number, width = row.get("num_examples", config.get("batch_size")), config.get("options", {}).get("width")
    words = [] if number is None else [f"{number} example{'s' * (number != 1)}"]
    return ", ".join([row["problem"], *words, *([] if width is None else [f"width {width}"])])


def environments_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Where and when each group was measured.

    Args:
        results: of the file.

    Returns:
        The environment by group: its own, that of the file where it has none.
    """
    known = results.get("environments", {})
    return {group: known.get(group, results["environment"]) for group in map(group_of, results["rows"])}
