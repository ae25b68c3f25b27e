"""The command line: cljax track, resume, spectrum, bounds, plan."""

import contextlib
import dataclasses
import io
import pathlib
import re
import sys
import traceback
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from cljax._plan_report import report_plan
from cljax._report import PLAIN, PREEMPTED, report, report_spectrum
from cljax.parallel.distributed import LostProcessError, Processes, initialize, is_lost_process, leave
from cljax.training.bounds import run_bounds
from cljax.training.config import RunConfig
from cljax.training.loop import CONFIG, DivergenceError, fit, resume
from cljax.training.plan import PlanConfig

LOST = 75
"""Exit code after another process was lost: EX_TEMPFAIL, what failed may work later."""


@dataclasses.dataclass(frozen=True)
class Track:
    """Train a network and track the curvature of its loss.

    Leaves a run directory: config.json, metrics.jsonl (one row a measurement), checkpoints, TensorBoard events, and
    plots of loss, eigenvalues, structure matrices and spectral density.

    $ cljax track

    $ cljax track --dataset mnist --data-dir data --model lenet --num-steps 500 --run-dir runs/lenet

    $ srun cljax track --distributed

    SIGTERM leads to a last checkpoint and exit code 143; a lost process of several to exit code 75 in the others.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    overwrite: bool = False
    """Replace the run directory where it exists."""
    quiet: bool = False
    """No progress bar."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)

    def run(self, console: Console) -> int:
        """Train, then measure the spectral density, then plot."""
        initialize(self.processes)
        return report(fit(self.config, overwrite=self.overwrite, progress=not self.quiet), console)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue a stopped run from its newest readable checkpoint.

    Gives the rows that the run would have had if it had never stopped, on whatever devices and processes there are now.

    $ cljax resume runs/digits-mlp
    """

    run_dir: tyro.conf.Positional[pathlib.Path]
    """Folder of the run."""
    num_devices: int | None = None
    """Devices to go on with from here on; as the run was configured where it is not given."""
    quiet: bool = False
    """No progress bar."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)

    def run(self, console: Console) -> int:
        """Train on, then measure the spectral density, then plot."""
        initialize(self.processes)
        return report(resume(self.run_dir, num_devices=self.num_devices, progress=not self.quiet), console)


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

    def run(self, console: Console) -> int:
        """Measure and plot."""
        for path in report_spectrum(self.run_dir, console, self.step, self.num_probes, self.num_steps):
            console.print(f"wrote {path}", **PLAIN)
        return 0


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

    def run(self, console: Console) -> int:
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
        for path in (found.path, plot_bounds(found, self.run_dir / "bounds.png", config)):
            console.print(f"wrote {path}", **PLAIN)
        return 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes, operations, communication and time of a Lanczos run, before it is run: any model on any mesh.

    Arithmetic on shapes: no device of the mesh need exist. Seconds come from the rates of one device, measured here
    where they are not given, and nothing is taken to overlap.

    $ cljax plan --size 124M --mesh data=1 --flops-rate 2e13 --memory-rate 2e12

    $ cljax plan --size 7B --input-shape 2048 --batch-size 64 --microbatch-size 1 --model-option remat=True
      --mesh data=64 --shard fsdp --flops-rate 2e13 --memory-rate 2e12 --link-rate 5e10 --device-memory 80e9
    """

    config: Annotated[PlanConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=PlanConfig)

    def run(self, console: Console) -> int:
        """Calculate and print."""
        report_plan(self.config, console)
        return 0


Command = (
    Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Spectrum, tyro.conf.subcommand("spectrum")]
    | Annotated[Bounds, tyro.conf.subcommand("bounds")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line on standard error.

    Args:
        argv: arguments, those of the process where None.

    Returns:
        Exit code: 0, 1 for a run that diverged, 2 for wrong input, 75 where another process was lost, 130 where
        interrupted, 143 after SIGTERM, with a checkpoint.

    Raises:
        JaxRuntimeError: if the runtime fails for another reason than memory.
        SystemExit: with 0, after ``--help``.
    """
    code = _run(argv)
    if code not in (0, PREEMPTED) and jax.distributed.is_initialized():
        leave(code)
    return code


def _run(argv: list[str] | None) -> int:
    try:
        return _parse(argv).run(Console())
    except DivergenceError as error:
        return _fail(error, 1)
    except LostProcessError as error:
        return _fail(error, LOST)
    except (ValueError, TypeError, OSError) as error:
        return _fail(error, LOST if is_lost_process(error) else 2)
    except jax.errors.JaxRuntimeError as error:
        if is_lost_process(error):
            return _fail(error, LOST)
        if "RESOURCE_EXHAUSTED" in str(error):
            return _fail("out of memory: expected less; try --microbatch-size, or fewer --max-products", 2)
        return _unexpected()
    except KeyboardInterrupt:
        return _fail("interrupted; rows and checkpoints are kept: cljax resume RUN_DIR goes on", 130)
    except Exception:
        return _unexpected()


def _unexpected() -> int:
    """Raise again what is no one's to mend; one process of several must not wait for the others on its way out."""
    if not jax.distributed.is_initialized():
        raise
    traceback.print_exc()
    return 1


def _parse(argv: list[str] | None) -> Track | Resume | Spectrum | Bounds | Plan:
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
