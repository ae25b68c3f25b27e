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

from cljax._plan_report import report_plan
from cljax._report import PLAIN, PREEMPTED, report, report_bounds, report_spectrum
from cljax._unread import Console, reader_is_gone, write_nowhere
from cljax.parallel.distributed import LOST, LostProcessError, Processes, initialize, is_lost_process, leave
from cljax.training.config import RunConfig
from cljax.training.loop import DivergenceError, fit, resume
from cljax.training.plan import PlanConfig


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of a run that exists, those it was configured for where nothing is given."""

    num_devices: int | None = None
    """Devices to use; as the run was configured where it is not given, all with --mesh."""
    mesh: str | None = None
    """Their axes as NAME=LENGTH, all that the run's --shard names, if with length 1; as the run was configured where it
    is not given."""


DevicesFlags = Annotated[Devices, tyro.conf.arg(name="")]
ProcessesFlags = Annotated[Processes, tyro.conf.arg(name="")]


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
    processes: ProcessesFlags = dataclasses.field(default_factory=Processes)

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
    devices: DevicesFlags = dataclasses.field(default_factory=Devices)
    quiet: bool = False
    """No progress bar."""
    processes: ProcessesFlags = dataclasses.field(default_factory=Processes)

    def run(self, console: Console) -> int:
        """Train on, then measure the spectral density, then plot."""
        initialize(self.processes)
        return report(resume(self.run_dir, **vars(self.devices), progress=not self.quiet), console)


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
    search_steps: int = 0
    """Products of a run that comes first and finds the outliers, which then have their exact weight."""
    devices: DevicesFlags = dataclasses.field(default_factory=Devices)
    processes: ProcessesFlags = dataclasses.field(default_factory=Processes)

    def run(self, console: Console) -> int:
        """Measure and plot."""
        initialize(self.processes)
        names = ("step", "num_probes", "num_steps", "search_steps")
        numbers = {name: getattr(self, name) for name in names}
        for path in report_spectrum(self.run_dir, console, **numbers, **vars(self.devices)):
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

    devices: DevicesFlags = dataclasses.field(default_factory=Devices)
    processes: ProcessesFlags = dataclasses.field(default_factory=Processes)

    def run(self, console: Console) -> int:
        """Measure and plot."""
        initialize(self.processes)
        for path in report_bounds(self.run_dir, console, num_examples=self.num_examples, **vars(self.devices)):
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
        interrupted, 141 where the reader of the output is gone, 143 after SIGTERM, with a checkpoint.

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
        if is_lost_process(error):
            return _fail(error, LOST)
        return write_nowhere() if reader_is_gone(error) else _fail(error, 2)
    except jax.errors.JaxRuntimeError as error:
        if is_lost_process(error):
            return _fail(error, LOST)
        if re.search(r"RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE):
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
