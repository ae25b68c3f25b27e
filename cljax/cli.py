"""The command line: cljax track, resume, spectrum, bounds."""

import contextlib
import dataclasses
import io
import pathlib
import re
import sys
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from cljax.training.bounds import run_bounds
from cljax.training.config import RunConfig
from cljax.training.loop import CHECKPOINTS, CONFIG, EVENTS, METRICS, DivergenceError, RunResult, fit, resume
from cljax.training.spectrum import checkpoint_spectrum


@dataclasses.dataclass(frozen=True)
class Track:
    """Train a network and track the curvature of its loss.

    Leaves a run directory: config.json, metrics.jsonl (one row a measurement), checkpoints, TensorBoard events, and
    plots of loss, eigenvalues, structure matrices and spectral density.

    $ cljax track

    $ cljax track --dataset mnist --data-dir data --model lenet --num-steps 500 --run-dir runs/lenet
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    overwrite: bool = False
    """Replace the run directory where it exists."""
    quiet: bool = False
    """No progress bar."""

    def run(self, console: Console) -> None:
        """Train, then measure the spectral density, then plot."""
        _report(fit(self.config, overwrite=self.overwrite, progress=not self.quiet), console)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue a stopped run from its newest readable checkpoint.

    Gives the rows that the run would have had if it had never stopped.

    $ cljax resume runs/digits-mlp
    """

    run_dir: tyro.conf.Positional[pathlib.Path]
    """Folder of the run."""
    quiet: bool = False
    """No progress bar."""

    def run(self, console: Console) -> None:
        """Train on, then measure the spectral density, then plot."""
        _report(resume(self.run_dir, progress=not self.quiet), console)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Spectral density of Hessian and Gauss-Newton matrix at a checkpoint, as PNG and JSON.

    $ cljax spectrum runs/digits-mlp --num-probes 8 --num-steps 64
    """

    run_dir: tyro.conf.Positional[pathlib.Path]
    """Folder of the run."""
    step: int | None = None
    """Step of the checkpoint; the newest readable one where it is not given."""
    num_probes: int | None = None
    """Random probes; as the run was configured where it is not given."""
    num_steps: int | None = None
    """Lanczos steps for each probe; as the run was configured where it is not given."""

    def run(self, console: Console) -> None:
        """Measure and plot."""
        for path in _spectrum(self.run_dir, console, self.step, self.num_probes, self.num_steps):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of loss and risk from structure matrices, at every checkpoint of a run, as PNG and JSON.

    Says how many examples the bounds cover, where they are void, what the labels alone allow, and what the gap between
    training and test risk can be.

    $ cljax bounds runs/digits-mlp --num-examples 256
    """

    run_dir: tyro.conf.Positional[pathlib.Path]
    """Folder of the run."""
    num_examples: int = 128
    """Training examples to measure."""

    def run(self, console: Console) -> None:
        """Measure and plot."""
        from cljax.plots import plot_bounds, run_title

        with console.status("bounds") as status:
            found = run_bounds(
                self.run_dir,
                num_examples=self.num_examples,
                progress_fn=lambda step: status.update(f"bounds at step {step}"),
            )
        config = RunConfig.load(self.run_dir / CONFIG)
        for note in found.notes:
            console.print(f"note: {note}", soft_wrap=True, highlight=False)
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
            soft_wrap=True,
            highlight=False,
        )
        for path in (found.path, plot_bounds(found, self.run_dir / "bounds.png", config)):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _report(result: RunResult, console: Console) -> None:
    from cljax.plots import plot_run, run_title

    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    directory = result.run_dir
    config = RunConfig.load(directory / CONFIG)
    plots = plot_run(result.rows, directory, config)
    if config.density_probes:
        plots += _spectrum(directory, console)
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
    failed = sum(not all(row[f"hessian_{end}_converged"]) for row in result.rows for end in ("top", "bottom"))
    failed += sum(not row["gauss_newton_converged"] for row in result.rows)
    num_ends = len(result.rows) * ((config.num_top > 0) + (config.num_bottom > 0) + 1)
    if failed:
        console.print(
            f"note: {failed} of {num_ends} ends of spectra have an error above --tol "
            f"{config.tol:g} (× in the plots); more --max-products would lower it",
            soft_wrap=True,
            highlight=False,
        )
    for path in [directory / name for name in (CONFIG, METRICS, CHECKPOINTS, EVENTS)] + plots:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _eigenvalue(row: dict[str, Any], name: str) -> str:
    """The most extreme one, with its residual."""
    return f"{row[name][0]:.4g} ± {row[f'{name}_residual'][0]:.1g}" if row[name] else "-"


def _spectrum(
    run_dir: pathlib.Path,
    console: Console,
    step: int | None = None,
    num_probes: int | None = None,
    num_steps: int | None = None,
) -> list[pathlib.Path]:
    from cljax.plots import plot_spectrum

    config = RunConfig.load(run_dir / CONFIG)
    with console.status("spectral density"):
        found = checkpoint_spectrum(run_dir, step=step, num_probes=num_probes, num_steps=num_steps)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    return [found.path, plot_spectrum(found, run_dir / f"spectrum-{found.step}.png", config)]


Command = (
    Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Spectrum, tyro.conf.subcommand("spectrum")]
    | Annotated[Bounds, tyro.conf.subcommand("bounds")]
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line on standard error.

    Args:
        argv: arguments, those of the process where None.

    Returns:
        Exit code: 0, 1 for a run that diverged, 2 for wrong input, 130 where interrupted.

    Raises:
        JaxRuntimeError: if the runtime fails for another reason than memory.
        SystemExit: with 0, after ``--help``.
    """
    try:
        _parse(argv).run(Console())
    except DivergenceError as error:
        return _fail(error, 1)
    except (ValueError, TypeError, OSError) as error:
        return _fail(error, 2)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail("out of memory: expected less; try --microbatch-size, or fewer --max-products", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; rows and checkpoints are kept: cljax resume RUN_DIR goes on", 130)
    return 0


def _parse(argv: list[str] | None) -> Track | Resume | Spectrum | Bounds:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                Command,
                prog="cljax",
                description="Curvature of deep-network training. Start with: cljax track",
                args=argv,
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise ValueError(_unframed(printed.getvalue())) from None


def _unframed(box: str) -> str:
    """The sections of a framed message in one line; the parser frames its errors, with a title and rules."""
    rows = "\n".join(row.strip(" │|") for row in box.splitlines())
    sections = re.split(r"^(?:[╭+][─-] .*|[╰+]?[─-]{8,}.*)$", rows, flags=re.MULTILINE)
    return "; ".join(" ".join(section.split()).rstrip(".") for section in sections if section.strip())


def _fail(error: Exception | str, code: int) -> int:
    print(f"cljax: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
