"""Tables of the suites that compare programs rather than estimators: what their rows have, row by row."""

from collections.abc import Mapping
from typing import Any

from benchmarks.reading import title_of

SUMMARIES = {
    "products": "Products with curvature matrices, in gradients of the same batch",
    "lanczos": "90 Lanczos steps, in their products",
    "structure": "Structure matrices of a batch; speedup over whole rows of Jacobians",
    "compile": "First calls, all compiled anew, and a short `cljax track` without and with its programs on disk",
    "convolutions": "Convolutions of a Hessian product, and the product; time by rows in that of the program as it is",
    "memory": "What programs hold besides arguments and results, by XLA's analysis",
}
"""Suites by name: what their tables show."""

COLUMNS = {
    "flops_in_gradients": "FLOPs / gradient",
    "flops_of_whole_rows": "FLOPs / those of whole rows",
    "time_in_gradients": "time / gradient",
    "time_in_products": "time / products",
    "speedup": "speedup",
    "flops_ratio": "FLOPs by rows / FLOPs",
    "time_ratio": "time by rows / time",
    "seconds": "seconds",
    "second_call_seconds": "seconds of the second call",
    "bytes": "MiB",
    "vectors": "in vectors of the parameters",
    "host_bytes": "MiB on the host",
}
"""Fields of rows by their heading."""


def plain_table(name: str, results: Mapping[str, Any]) -> str:
    """A table of all rows.

    Args:
        name: of the file.
        results: of one of ``SUMMARIES``.

    Returns:
        Markdown.
    """
    rows = results["rows"]
    shown = {key: heading for key, heading in COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    lines = ["| | | " + " | ".join(shown.values()) + " |", "|---|---|" + "---:|" * len(shown)]
    for row in rows:
        what = " ".join(part for part in (row["operator"], row.get("form", "")) if part).replace("_", "-")
        lines.append(
            f"| {title_of(results, row)} | {what} | " + " | ".join(_cell(key, row.get(key)) for key in shown) + " |"
        )
    return f"## {name}\n\n{SUMMARIES[results['benchmark']]}.\n\n" + "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        median, *quartiles = (f"{value[name]:.3g}" for name in ("median", "lower_quartile", "upper_quartile"))
        return median if {*quartiles} == {median} else f"{median} ({'–'.join(quartiles)})"
    return f"{value / 2**20:.1f}" if key in {"bytes", "host_bytes"} else f"{value:.3g}"
