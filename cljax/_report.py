"""What commands print and plot of a run; with several processes process 0 does, and all measure."""

import pathlib
import signal
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from cljax.parallel.distributed import is_writer
from cljax.training.bounds import run_bounds
from cljax.training.config import RunConfig
from cljax.training.loop import CHECKPOINTS, CONFIG, EVENTS, METRICS, RunResult
from cljax.training.metrics import FAILED
from cljax.training.spectrum import checkpoint_spectrum

PREEMPTED = 143
"""Exit code after SIGTERM and a checkpoint: 128 + 15, as a shell has it."""
PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
"""Options to print a line as it is; a path may have brackets."""


def report(result: RunResult, console: Console) -> int:
    """Plots, spectral density and a table of a run that ended; all processes must call.

    Args:
        result: from ``fit`` or ``resume``.
        console: to print to; process 0 does.

    Returns:
        Exit code.
    """
    from cljax.plots import plot_run, run_title

    console.quiet = not is_writer()
    for note in result.notes:
        console.print(f"note: {note}", **PLAIN)
    directory = result.run_dir
    if result.preempted_at is not None:
        step = result.preempted_at
        console.print(f"stopped by SIGTERM with a checkpoint at step {step}: cljax resume {directory} goes on", **PLAIN)
        return PREEMPTED
    if jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the run is whole: to end now needs no checkpoint
    config = RunConfig.load(directory / CONFIG)
    plots = plot_run(result.rows, directory, config) if is_writer() else []
    if config.density_probes:
        plots += report_spectrum(directory, console)
    row = result.rows[-1]
    table = Table(title=f"{run_title(config)} after {row['step']} steps")
    for heading in ("train loss", "test loss", "test accuracy", "λmax(H)", "λmin(H)", "λmax(GGN)", "gradient energy"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{row['train_loss']:.4g}",
        f"{row['test_loss']:.4g}",
        f"{row['test_accuracy']:.1%}",
        *(_eigenvalue(row, f"hessian_{end}") for end in ("top", "bottom")),
        f"{row['gauss_newton_top']:.4g} ± {row['gauss_newton_residual']:.1g}",
        f"{row['gradient_energy']:.4g}",
    )
    console.print(table)
    ends = [row.get(f"hessian_{end}_status", []) for row in result.rows for end in ("top", "bottom")]
    ends += [[row.get("gauss_newton_status")] for row in result.rows]
    failed = sum(not FAILED.isdisjoint(end) for end in ends)
    num_ends = len(result.rows) * ((config.num_top > 0) + (config.num_bottom > 0) + 1)
    if failed:
        console.print(
            f"note: {failed} of {num_ends} ends of spectra have an error above --tol "
            f"{config.tol:g} (× in the plots); more --max-products would lower it",
            **PLAIN,
        )
    for path in [directory / name for name in (CONFIG, METRICS, CHECKPOINTS, EVENTS)] + plots:
        console.print(f"wrote {path}", **PLAIN)
    return 0


def _eigenvalue(row: dict[str, Any], name: str) -> str:
    """The most extreme one, with its residual."""
    return f"{row[name][0]:.4g} ± {row[f'{name}_residual'][0]:.1g}" if row[name] else "-"


def report_spectrum(run_dir: pathlib.Path, console: Console, **options: Any) -> list[pathlib.Path]:
    """Spectral density at a checkpoint.

    Args:
        run_dir: folder of the run.
        console: to print to; process 0 does.
        **options: as for ``checkpoint_spectrum``.

    Returns:
        The files, none of them where another process writes.
    """
    from cljax.plots import plot_spectrum

    console.quiet = not is_writer()
    config = RunConfig.load(run_dir / CONFIG)
    with console.status("spectral density"):
        found = checkpoint_spectrum(run_dir, **options)
    for note in found.notes:
        console.print(f"note: {note}", **PLAIN)
    if not is_writer():
        return []
    return [found.path, plot_spectrum(found, run_dir / f"spectrum-{found.step}.png", config)]


def report_bounds(run_dir: pathlib.Path, console: Console, **options: Any) -> list[pathlib.Path]:
    """Bounds at every checkpoint, as a table and a plot.

    Args:
        run_dir: folder of the run.
        console: to print to; process 0 does.
        **options: as for ``run_bounds``.

    Returns:
        The files, none of them where another process writes.
    """
    from cljax.plots import plot_bounds, run_title

    console.quiet = not is_writer()
    with console.status("bounds") as status:
        found = run_bounds(run_dir, **options, progress_fn=lambda step: status.update(f"bounds at step {step}"))
    if not is_writer():
        return []
    config = RunConfig.load(run_dir / CONFIG)
    for note in found.notes:
        console.print(f"note: {note}", **PLAIN)
    table = Table(title=f"{run_title(config)}: bounds of the loss, {found.checkpoints[0].risk.kind}")
    for heading in ("step", "lower", "risk", "upper", "covered", "void", "λmin(A)", "λmax(A)"):
        table.add_column(heading, justify="right")
    for at in found.checkpoints:
        risk = at.risk
        numbers = (risk.risk_lower, risk.risk, risk.risk_upper)
        void = float((risk.void & (risk.weight > 0)).sum() / (risk.weight > 0).sum())
        extremes = (risk.lambda_min.min(), risk.lambda_max.max())
        table.add_row(
            str(at.step),
            *(f"{float(x):.4g}" for x in numbers),
            f"{float(risk.coverage):.1%}",
            f"{void:.1%}",
            *(f"{float(x):.4g}" for x in extremes),
        )
    console.print(table)
    gap = found.generalization
    console.print(
        f"floor of the training risk, from labels of equal inputs: {found.floor:.4g} "
        f"({found.num_duplicates} examples share their input)\n"
        f"test − training risk {gap.gap:.4g}; with the predicted class as feature at most {gap.distribution:.4g}, "
        f"of it {gap.quantization:.4g} because the loss is no function of that class",
        **PLAIN,
    )
    return [found.path, plot_bounds(found, run_dir / "bounds.png", config)]
