"""What commands print and plot of a run; with several processes process 0 does, and all measure."""

import pathlib
import signal
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from cljax.parallel.distributed import is_writer
from cljax.training.config import RunConfig
from cljax.training.loop import CHECKPOINTS, CONFIG, EVENTS, METRICS, RunResult
from cljax.training.metrics import FAILED
from cljax.training.spectrum import checkpoint_spectrum

PREEMPTED = 143
"""Exit code after SIGTERM and a checkpoint: 128 + 15, as a shell has it."""
PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False}


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
    ends = [row[f"hessian_{end}_status"] for row in result.rows for end in ("top", "bottom")]
    ends += [[row["gauss_newton_status"]] for row in result.rows]
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


def report_spectrum(
    run_dir: pathlib.Path,
    console: Console,
    step: int | None = None,
    num_probes: int | None = None,
    num_steps: int | None = None,
) -> list[pathlib.Path]:
    """Spectral density at a checkpoint, see ``checkpoint_spectrum``.

    Args:
        run_dir: folder of the run.
        console: to print to.
        step: of the checkpoint.
        num_probes: random probes.
        num_steps: Lanczos steps for each.

    Returns:
        The files, none of them where another process writes.
    """
    from cljax.plots import plot_spectrum

    config = RunConfig.load(run_dir / CONFIG)
    with console.status("spectral density"):
        found = checkpoint_spectrum(run_dir, step=step, num_probes=num_probes, num_steps=num_steps)
    for note in found.notes:
        console.print(f"note: {note}", **PLAIN)
    if not is_writer():
        return []
    return [found.path, plot_spectrum(found, run_dir / f"spectrum-{found.step}.png", config)]
