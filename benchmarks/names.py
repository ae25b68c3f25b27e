"""Names of estimators, which are the first cells of the rows of tables."""

from typing import Any

FIXED = ("one product", "one gradient")
"""Rows of the unit of time, which is no estimator: of a matrix, of a network."""


def check_name(name: Any) -> None:
    """Refuse what a table cannot show, or would take for another row.

    Args:
        name: of an estimator.

    Raises:
        ValueError: if it is no text, is empty, has a line break or a bar, or is that of the unit of time.
    """
    if not isinstance(name, str) or not name.split(",")[0].strip() or "|" in name or "\n" in name or name in FIXED:
        taken = " and ".join(repr(known) for known in FIXED)
        raise ValueError(f"name: expected a line of text without '|', other than {taken}; got {name!r}")
