"""Curves of the error against products, seconds and gradients: a picture for each, with a panel for each case."""

import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.report_rows import (
    Row,
    error_of,
    gradients_of,
    groups_of,
    is_ours,
    megabytes_of,
    products_of,
    seconds_of,
)

COSTS: dict[str, Any] = {
    "products": products_of,
    "seconds": seconds_of,
    "gradients": gradients_of,
    "megabytes": megabytes_of,
}
_LABELS = {"gradients": "time of gradients", "megabytes": "peak MB"}
COLUMNS = 4

_THEIRS = {"ls": "-", "marker": "o", "lw": 1.1, "ms": 3, "mfc": None, "zorder": 2}
_LINES = ("-", "--", ":", "-.", (0, (6, 2)))
_MARKERS = "os^DvPX<>*h"
"""Ours are black, told apart by lines and markers: 55 of them."""


def costs_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """What errors are drawn against.

    Args:
        rows: of one task.

    Returns:
        Rows that were run and have the cost, by name of the cost; no name without rows.
    """
    ran = [row for row in rows if row["status"] == "ok" and error_of(row)]
    found = {cost: [row for row in ran if (spread := of(row)) and spread[0]] for cost, of in COSTS.items()}
    return {cost: kept for cost, kept in found.items() if kept}


def bars(costs: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines between quartiles, across each point, in both directions.

    Args:
        costs: (n, 3), median and quartiles; a lower one of 0, which has no logarithm, is a tenth of the median.
        errors: the same.

    Returns:
        Coordinates of the ends, with gaps (NaN) between lines.
    """
    (x, *across), (y, *along) = ((m, np.maximum(lower, m / 10), upper) for m, lower, upper in (costs.T, errors.T))
    gap = np.full(x.shape, np.nan)
    lines = [*across, gap, x, x, gap], [y, y, gap, *along, gap]
    return np.stack(lines[0], 1).ravel(), np.stack(lines[1], 1).ravel()


def draw_curves(stem: str, rows: list[Row], folder: pathlib.Path) -> Iterable[pathlib.Path]:
    """Draw all pictures of a file of results.

    Args:
        stem: name of the file, as which the pictures begin.
        rows: its rows.
        folder: where the PNG files go.

    Yields:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ran = [row for row in rows if row["status"] == "ok"]
    names = list(dict.fromkeys(row["estimator"] for row in ran))
    peers = [name for name in names if not is_ours(name)]
    styles = {name: {"color": mpl.colormaps["tab20"](i % 20), **_THEIRS} for i, name in enumerate(peers)}
    ours = [name for name in names if is_ours(name)]
    line, marker = itertools.cycle(_LINES), itertools.cycle(_MARKERS)
    styles |= {name: {"ls": next(line), "marker": next(marker)} for name in ours}
    for cost, kept in costs_of(rows).items():
        groups, of = groups_of(kept), COSTS[cost]
        columns = min(COLUMNS, len(groups))
        lines = -(-len(groups) // columns)
        figure = Figure((3.6 * columns, 2.9 * lines + 0.35 * (1 + len(names) // columns)), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        for ax in axes.flat[len(groups) :]:
            ax.set_axis_off()
        for ax, (group, found) in zip(axes.flat, groups.items(), strict=False):
            for name in names:
                # in the order of tolerances or budgets, as times scatter
                costs, errors = (
                    np.asarray([value(r) for r in found if r["estimator"] == name]) for value in (of, error_of)
                )
                if len(costs):
                    style = {"color": "k", "lw": 1.8, "ms": 5, "mfc": "w", "zorder": 3} | styles[name]
                    errors = np.maximum(errors, 1e-8)
                    ax.loglog(costs[:, 0], errors[:, 0], label=name, **style)
                    ax.plot(*bars(costs, errors), color=style["color"], lw=0.6, zorder=1)
            ax.set_title(group, fontsize=10)
            ax.tick_params(labelsize=8, which="both")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.grid(alpha=0.3, which="major")
        for ax in list(axes.flat[: len(groups)])[-columns:]:  # the lowest of each column
            ax.set_xlabel(_LABELS.get(cost, cost))
        for ax in axes[:, 0]:
            ax.set_ylabel("error")
        handles: dict[str, Any] = {}
        for ax in axes.flat:
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        path = folder / f"{stem}-{cost}.png"
        figure.savefig(path, dpi=90)
        yield path
