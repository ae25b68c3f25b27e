"""Plots of a run, as PNG files."""

import pathlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cljax.spectral.density import SpectralDensity
from cljax.theory.risk import RiskBounds
from cljax.training.bounds import RunBounds
from cljax.training.config import RunConfig
from cljax.training.metrics import FAILED
from cljax.training.spectrum import CheckpointSpectrum

_STYLE: Any = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
_LOSS_UNITS = {
    "shannon": "nats",
    "bernoulli": "nats",
    "poisson": "nats",
    "squared": "score²",
    "sparsemax": "probability²",
}
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#1f6fb4", "#e07b1a", "#2e8b57", "#b3282d", "#666666"


def run_title(config: RunConfig) -> str:
    """What was trained, for the heads of plots and tables."""
    return f"{config.dataset}, {config.model}"


def plot_run(rows: list[dict[str, Any]], directory: pathlib.Path, config: RunConfig) -> list[pathlib.Path]:
    """Loss, eigenvalues and structure extremes against the step.

    Args:
        rows: measurements, at least one.
        directory: where to write loss.png, eigenvalues.png and structure.png.
        config: of the run: what was trained, the unit of its loss, and the momentum for the threshold (2 + 2β)/lr.

    Returns:
        The files written.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("rows: expected at least one measurement, got none")
    title = run_title(config)
    unit = _LOSS_UNITS[config.loss]
    with matplotlib.rc_context(_STYLE):
        return [
            _save(_loss_figure(rows, title, unit), directory / "loss.png"),
            _save(_eigenvalue_figure(rows, title, config.momentum), directory / "eigenvalues.png"),
            _save(_structure_figure(rows, title), directory / "structure.png"),
        ]


def plot_spectrum(found: CheckpointSpectrum, path: pathlib.Path, config: RunConfig) -> pathlib.Path:
    """Spectral densities of Hessian and Gauss-Newton matrix, one above the other, and beside them those of log₁₀|λ|.

    Args:
        found: the densities.
        path: the file to write.
        config: of the run.

    Returns:
        ``path``.
    """
    names = {"hessian": ("Hessian", _BLUE), "gauss_newton": ("Gauss-Newton", _ORANGE)}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        grid = figure.subplots(2, 2, sharex="col", sharey="col", width_ratios=(3, 2))
        axes = grid[:, 0]
        for ax, log_ax, (name, (label, color)) in zip(axes, grid[:, 1], names.items(), strict=True):
            _draw_log_density(log_ax, found.densities[name], color)
            extremes = np.asarray(found.extremes[name].values)
            _draw_density(ax, found.densities[name], label, color)
            for index, value in enumerate(extremes):
                ax.axvline(value, color=_GREY, ls=":", lw=1.2, label=None if index else "extreme eigenvalues")
            ax.set_ylabel("density  [1 / eigenvalue]")
            ax.legend(loc="upper center")
        axes[0].set_title(f"{run_title(config)}: spectral density at step {found.step}", loc="left")
        axes[1].set_xlabel("eigenvalue  [loss / parameter²]")
        grid[1, 1].set_xlabel("|eigenvalue|  [loss / parameter²]")
        return _save(figure, path)


def plot_bounds(found: RunBounds, path: pathlib.Path, config: RunConfig) -> pathlib.Path:
    """Bounds of each example's loss at the last checkpoint, and of the risk along the checkpoints.

    Args:
        found: the bounds.
        path: the file to write.
        config: of the run.

    Returns:
        ``path``.
    """
    unit = _LOSS_UNITS[config.loss]
    last = found.checkpoints[-1].risk
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 7.5), layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
        _draw_example_bounds(top, last, unit)
        top.set_title(f"{run_title(config)}: bounds of each loss at step {found.checkpoints[-1].step}", loc="left")
        steps = [at.step for at in found.checkpoints]
        for name, color, label in (("upper", _ORANGE, "upper bound"), ("lower", _BLUE, "lower bound")):
            values = np.array([float(getattr(at.risk, f"risk_{name}")) for at in found.checkpoints])
            bottom.plot(steps, np.where(np.isfinite(values), values, np.nan), "o-", color=color, label=label)
        bottom.plot(steps, [float(at.risk.risk) for at in found.checkpoints], "o-", color=_GREY, label="risk")
        if found.floor > 0:
            bottom.axhline(found.floor, color=_RED, ls=":", label="floor from labels of equal inputs")
        bottom.set_yscale("log")
        bottom.set_xlabel("step  (a void bound is not drawn)")
        bottom.set_ylabel(f"mean loss  [{unit}]")
        bottom.legend()
        return _save(figure, path)


def _draw_example_bounds(ax: Axes, risk: RiskBounds, unit: str) -> None:
    counted = np.asarray(risk.weight) > 0
    loss, lower, upper = (np.asarray(x, float)[counted] for x in (risk.loss, risk.lower, risk.upper))
    # a loss of 0 has no place on a logarithmic axis: a float32's least stands for it
    floor = max(loss.max(initial=0) * 1e-8, 1e-12)
    loss = np.maximum(loss, floor)
    ax.plot(loss, np.maximum(lower, floor), ".", color=_BLUE, label="lower bound")
    bounded = np.isfinite(upper)
    ax.plot(loss[bounded], np.maximum(upper[bounded], floor), ".", color=_ORANGE, label="upper bound")
    if not bounded.all():
        height = 3 * max(upper[bounded].max(initial=floor), loss.max())
        ax.plot(loss[~bounded], np.full((~bounded).sum(), height), "^", color=_RED, label="upper bound is void")
    ends = np.array([loss.min(), loss.max()])
    ax.plot(ends, ends, color=_GREY, lw=1.2, label="the loss itself")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(f"loss of an example  [{unit}]")
    ax.set_ylabel(f"its bounds  [{unit}]")
    ax.legend()


def _draw_density(ax: Axes, density: SpectralDensity, label: str, color: str) -> None:
    nodes = np.asarray(density.nodes)
    low, high = nodes.min(), nodes.max()
    width = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-30)
    sigma = 0.01 * width
    grid = np.linspace(low - 5 * sigma, high + 5 * sigma, 1000)
    mean, error = (np.asarray(x) for x in density.density(grid, sigma))
    # one eigenvalue alone is a peak of height 1 / (n sigma sqrt(2 pi)); what is far below it is the Gaussian's tail
    floor = 0.01 / (density.dimension * sigma * np.sqrt(2 * np.pi))
    seen = np.where(mean > floor, mean, np.nan)
    ax.fill_between(grid, np.maximum(seen - error, floor), seen + error, color=color, alpha=0.25, lw=0)
    ax.plot(grid, seen, color=color, label=f"{label} ± standard error, σ = {sigma:.2g}")
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor)


def _draw_log_density(ax: Axes, density: SpectralDensity, color: str) -> None:
    found = density.log_density()
    grid = np.asarray(found.grid)
    floor = 0.1 / density.dimension  # a tenth of one eigenvalue
    for sign, tint in (("positive", color), ("negative", _RED)):
        mean, error = (np.asarray(getattr(found, name)) for name in (sign, f"{sign}_error"))
        seen = np.where(mean > floor, mean, np.nan)
        ax.fill_between(grid, np.maximum(seen - error, floor), seen + error, color=tint, alpha=0.25, lw=0)
        ax.plot(grid, seen, color=tint, label=sign)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(floor, 30)
    ax.set_ylabel("density  [1 / decade]")
    below = float(found.mass_below)
    title = f"{below:.0%} below {float(found.floor):.0e}" if below > 0 else None
    ax.legend(title=title, loc="upper right", ncols=2)


def _loss_figure(rows: list[dict[str, Any]], title: str, unit: str) -> Figure:
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = _column(rows, "step")
    for name, color in (("train", _BLUE), ("test", _ORANGE)):
        top.plot(steps, _column(rows, f"{name}_loss"), color=color, label=name)
        bottom.plot(steps, 100 * _column(rows, f"{name}_accuracy"), color=color, label=name)
    top.set_yscale("log")
    top.set_ylabel(f"mean loss  [{unit}]")
    top.set_title(f"{title}: loss and accuracy", loc="left")
    bottom.set_ylabel("accuracy  [%]")
    bottom.set_xlabel("step")
    top.legend()
    bottom.legend()
    return figure


def _eigenvalue_figure(rows: list[dict[str, Any]], title: str, momentum: float) -> Figure:
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = _column(rows, "step")
    for end, ax, color in (("top", top, _BLUE), ("bottom", bottom, _RED)):
        num = max(len(row[f"hessian_{end}"]) for row in rows)
        for index in range(num):
            # a tracked set may grow and shrink: nothing is drawn where an eigenvalue was not tracked
            tracked = [index < len(row[f"hessian_{end}"]) for row in rows]
            values = np.array([row[f"hessian_{end}"][index] if here else np.nan for row, here in zip(rows, tracked)])
            label = f"Hessian, {'greatest' if end == 'top' else 'least'} {num if num > 1 else ''}".rstrip()
            ax.plot(steps, values, color=color, alpha=1 - 0.6 * index / num, label=f"_{label}" if index else label)
            status = [row.get(f"hessian_{end}_status", ()) for row in rows]  # rows of older versions have none
            failed = [index < len(words) and words[index] in FAILED for words in status]
            ax.plot(steps[failed], values[failed], "x", color=color, label="_not accurate")
    if "gauss_newton_top" in rows[0]:
        top.plot(steps, _column(rows, "gauss_newton_top"), color=_ORANGE, ls="-.", label="Gauss-Newton, greatest")
    thresholds = [("2/lr", 2.0, "--")] + ([("(2+2β)/lr", 2 + 2 * momentum, ":")] if momentum else [])
    rates = _column(rows, "learning_rate")
    for label, factor, style in thresholds:
        top.plot(steps, _thresholds(factor, rates), color=_GREY, ls=style, label=label)
    if min((value for row in rows for value in row["hessian_top"]), default=1) > 0:
        top.set_yscale("log")
    # a schedule that ends at 0 sends the thresholds to infinity
    slowest = _thresholds(2 + 2 * momentum, rates[: len(rates) // 2 + 1])
    if np.isfinite(slowest).any():
        heights = np.array([*slowest, *(value for row in rows for value in row["hessian_top"])])
        top.set_ylim(top=1.5 * heights[np.isfinite(heights)].max())
    top.set_ylabel("eigenvalue  [loss / parameter²]")
    top.set_title(f"{title}: extreme eigenvalues", loc="left")
    bottom.axhline(0, color=_GREY, lw=0.8)
    bottom.set_ylabel("[loss / parameter²]")
    bottom.set_xlabel("step  (× : error above tolerance)")
    top.legend(ncols=2)
    if rows[0]["hessian_bottom"]:
        bottom.legend()
    return figure


def _thresholds(factor: float, rates: np.ndarray) -> np.ndarray:
    """The quotients factor / rates, NaN where one is no finite number."""
    seen = rates > factor / np.finfo(float).max
    return np.divide(factor, rates, out=np.full_like(rates, np.nan), where=seen)


def _structure_figure(rows: list[dict[str, Any]], title: str) -> Figure:
    measured = "structure_min" in rows[0]
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    ratios = (2, 1) if measured else (1,)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    steps = _column(rows, "step")
    if measured:
        _draw_structure(axes[0], rows)
    axes[0].set_title(f"{title}: {'structure matrices and ' if measured else ''}gradient energy", loc="left")
    bottom = axes[-1]
    bottom.plot(steps, _column(rows, "gradient_energy"), color=_RED, label="gradient energy, mean |∇ℓ|²")
    bottom.plot(steps, _column(rows, "gradient_norm") ** 2, color=_GREY, ls="--", label="|mean ∇ℓ|²")
    bottom.set_yscale("log")
    bottom.set_ylabel("[loss² / parameter²]")
    bottom.set_xlabel("step")
    bottom.legend()
    return figure


def _draw_structure(ax: Axes, rows: list[dict[str, Any]]) -> None:
    steps, least, greatest = (_column(rows, name) for name in ("step", "structure_min", "structure_max"))
    ax.fill_between(steps, least, greatest, color=_GREEN, alpha=0.12, lw=0)
    ax.plot(steps, greatest, color=_GREEN, label="λmax over the batch")
    ax.plot(steps, least, color=_BLUE, label="λmin over the batch")
    ax.set_yscale("log")
    ax.set_ylabel("eigenvalue of J Jᵀ  [score² / parameter²]")
    ax.legend()


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    partial = path.with_name(path.name + ".partial")
    FigureCanvasAgg(figure).print_png(partial)
    partial.replace(path)
    return path
