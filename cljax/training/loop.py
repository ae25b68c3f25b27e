"""The training loop: all input and output of a run, around pure steps and measurements.

With several processes all of them call it, on a run directory that all see. Each measures every row, process 0 writes
them, and the checkpoints are written by all.
"""

import dataclasses
import math
import os
import pathlib
import shutil
import time
from typing import Any

import jax

from cljax._in_flight import landed
from cljax.parallel.distributed import LostProcessError, everywhere, expect_loss, is_lost_process, is_writer, on_writer
from cljax.parallel.preemption import StopSignal
from cljax.training.checkpoint import Checkpoints, check_folder
from cljax.training.config import RunConfig
from cljax.training.evaluation import evaluate
from cljax.training.metrics import EventLog, MetricsLog, record_fields
from cljax.training.progress import RunProgress
from cljax.training.run import Run, RunState, make_run
from cljax.training.step import TrainState

CONFIG, METRICS, CHECKPOINTS, EVENTS = "config.json", "metrics.jsonl", "checkpoints", "tensorboard"
_LOOK_EVERY = 10


class DivergenceError(ArithmeticError):
    """Loss or gradient stopped being finite; rows and checkpoints up to there are kept."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A finished or stopped run.

    Attributes:
        run_dir: its folder.
        rows: all measurements, oldest first.
        finished: False where ``stop_after`` or SIGTERM ended it.
        notes: what a person should know: how the data differ from the official set, checkpoints that were skipped.
        preempted_at: None, or the step of the checkpoint that SIGTERM led to.
    """

    run_dir: pathlib.Path
    rows: list[dict[str, Any]]
    finished: bool
    notes: tuple[str, ...] = ()
    preempted_at: int | None = None


def fit(
    config: RunConfig, *, overwrite: bool = False, progress: bool = True, stop_after: int | None = None
) -> RunResult:
    """Train and track, from the first step, into a new run directory.

    Args:
        config: the run.
        overwrite: replace a run directory that exists.
        progress: show a progress bar.
        stop_after: stop before this step, as if killed there; ``resume`` goes on.

    Returns:
        The rows, also in metrics.jsonl.

    Raises:
        ValueError: if the configuration names what does not exist, or the directory exists.
        DivergenceError: if loss or gradient is not finite.
        LostProcessError: if another process of the run was lost.

    Example:
        >>> import tempfile
        >>> from cljax import training
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = training.RunConfig(num_steps=2, measure_every=2, run_dir=folder + "/run", num_devices=1)
        ...     [row["step"] for row in training.fit(config, progress=False).rows]
        [0, 2]
    """
    directory = config.directory
    on_writer(lambda: _check_free(directory, overwrite))
    run, state = make_run(config)
    on_writer(lambda: _create(config))
    if not everywhere((directory / CONFIG).exists()):
        raise ValueError(f"run_dir: expected a folder that all processes see, got {directory}")
    return _continue(run, state, directory, [], run.notes, progress, stop_after)


def resume(
    run_dir: str | pathlib.Path,
    *,
    num_devices: int | None = None,
    mesh: str | None = None,
    progress: bool = True,
    stop_after: int | None = None,
) -> RunResult:
    """Go on with a stopped run from its newest readable checkpoint, as if it had never stopped.

    A checkpoint counts as readable if the rows measured before it are there, too. Rows after it are measured again; on
    one device they come out the same, bit for bit, but for the seconds. The number of devices and of processes may be
    another one; then they are the same to rounding.

    Args:
        run_dir: folder of the run.
        num_devices: devices to go on with from here on; as the run was configured where None.
        mesh: their axes from here on, the same.
        progress: show a progress bar.
        stop_after: stop before this step.

    Returns:
        All rows; ``notes`` names checkpoints that could not be used.

    Raises:
        ValueError: if the folder holds no run, or no checkpoint can be read.
        DivergenceError: if loss or gradient is not finite.
        LostProcessError: if another process of the run was lost.
    """
    directory = pathlib.Path(run_dir)
    saved = RunConfig.load(directory / CONFIG)
    config = saved.on_devices(num_devices, mesh)
    run, state = make_run(config)
    log = MetricsLog(directory / METRICS)
    num_rows = on_writer(lambda: len(log.read()))
    restored = Checkpoints(directory / CHECKPOINTS, config.keep_checkpoints).restore(state, max_rows=num_rows)
    rows = on_writer(lambda: log.truncate(restored.num_rows))
    if config != saved:
        on_writer(lambda: config.save(directory / CONFIG))
    notes = (*run.notes, *restored.skipped)
    if restored.step > config.num_steps:
        notes += (
            f"num_steps: the run has {restored.step} steps already, more than {config.num_steps}; none was added",
        )
    return _continue(run, restored.state, directory, rows, notes, progress, stop_after, restored.step)


def _check_free(directory: pathlib.Path, overwrite: bool) -> None:
    check_folder(directory)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not _is_run(directory):
        raise ValueError(f"run_dir: expected a new folder, got {directory}, which exists and is no run; name another")
    if not overwrite:
        raise ValueError(
            f"run_dir: expected a new folder, got {directory}, which exists; replace it with --overwrite, "
            f"go on with it by `cljax resume {directory}`, or name another with --run-dir"
        )


def _create(config: RunConfig) -> None:
    directory = pathlib.Path(os.path.realpath(config.directory))  # where a link leads, which need not exist yet
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    config.save(directory / CONFIG)


def _is_run(directory: pathlib.Path) -> bool:
    """Whether a folder holds a readable configuration of a run, and nothing that no run writes."""
    try:
        RunConfig.load(directory / CONFIG)
    except (ValueError, TypeError, OSError):
        return False
    known = {CONFIG, METRICS, CHECKPOINTS, EVENTS, "bounds.json"}
    # a crash may leave a file that was not yet given its name
    paths = [path.with_suffix("") if path.suffix == ".partial" else path for path in directory.iterdir()]
    return all(path.name in known or path.suffix == ".png" or path.match("spectrum-*.json") for path in paths)


def _continue(
    run: Run,
    state: RunState,
    directory: pathlib.Path,
    rows: list[dict[str, Any]],
    notes: tuple[str, ...],
    progress: bool,
    stop_after: int | None,
    saved: int | None = None,
) -> RunResult:
    config, rows = run.config, list(rows)
    log, first = MetricsLog(directory / METRICS), int(state.train.step)
    checkpoints = Checkpoints(directory / CHECKPOINTS, config.keep_checkpoints)
    events = EventLog(directory / EVENTS, first) if is_writer() else None
    started = time.perf_counter()
    finished, preempted_at = first > config.num_steps, None
    expect_loss(_remedy(directory, saved))
    try:
        with StopSignal() as stop, RunProgress(config.num_steps, progress and is_writer()) as bar:
            for step in range(first, config.num_steps + 1):
                if step == stop_after:
                    break
                last = step == config.num_steps
                if not last and stop.reached(step):
                    preempted_at = step  # a row that is due here is measured by the run that goes on
                due = step % config.measure_every == 0 or last
                if due and preempted_at is None and not (rows and rows[-1]["step"] == step):
                    check_finite(state.train, config)
                    jax.block_until_ready(state.train.params)
                    state, row = measure(run, state, step, time.perf_counter() - started)
                    if not math.isfinite(row["curvature_loss"]):
                        raise DivergenceError(_advice(step, config))
                    if events is not None:
                        log.append(row)
                        events.append(row)
                    rows.append(row)
                    bar.row(row)
                    started = time.perf_counter()
                due = step % config.checkpoint_every == 0 or last or preempted_at is not None
                if due and step != saved:
                    check_finite(state.train, config)
                    checkpoints.save(step, state, len(rows))
                    saved = step
                    expect_loss(_remedy(directory, saved))
                if last or preempted_at is not None:
                    finished = last
                    break
                train = landed(run.step_fn(state.train, run.put(run.batches(step))))
                state = dataclasses.replace(state, train=train)
                if step % _LOOK_EVERY == 0:
                    check_finite(state.train, config)
                    bar.step(step + 1)
    except Exception as error:
        if not is_lost_process(error):
            raise
        raise LostProcessError(_lost(error, _remedy(directory, saved))) from error
    finally:
        if events is not None:
            events.close()
    return RunResult(directory, rows, finished, notes, preempted_at)


def _remedy(directory: pathlib.Path, saved: int | None) -> str:
    remedy = "start it anew" if saved is None else f"cljax resume {directory} goes on from step {saved}"
    return f"{remedy}, with as many processes as there are then"


def _lost(error: Exception, remedy: str) -> str:
    first = str(error).partition("\n")[0]
    return f"process {jax.process_index()} of {jax.process_count()}: another process was lost ({first}); {remedy}"


def measure(run: Run, state: RunState, step: int, seconds_training: float) -> tuple[RunState, dict[str, Any]]:
    """One row: curvature, losses, accuracies.

    Args:
        run: the run.
        state: its state at ``step``.
        step: steps done.
        seconds_training: spent since the row before.

    Returns:
        The state with a new tracker state, and the row.
    """
    started = time.perf_counter()
    config, params = run.config, state.train.params
    key = jax.random.fold_in(state.key, step)
    learning_rate = float(run.schedule(step))
    two_over_lr = 2 / learning_rate if learning_rate > 0 else math.inf
    threshold = None if config.track_above is None else config.track_above * two_over_lr
    tracked, record = run.tracker.measure(state.tracker, params, run.curvature_batch, key, threshold=threshold)
    train_loss, train_accuracy = evaluate(run.apply_fn, run.loss, params, run.train_eval)
    test_loss, test_accuracy = evaluate(run.apply_fn, run.loss, params, run.test_eval)
    row = {
        "step": step,
        "epoch": step / run.batches.steps_per_epoch,
        "learning_rate": learning_rate,
        "two_over_lr": two_over_lr,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        **record_fields(record, config.num_bottom),
        "seconds_training": seconds_training,
        "seconds_measuring": time.perf_counter() - started,
    }
    return dataclasses.replace(state, tracker=tracked), row


def check_finite(state: TrainState, config: RunConfig) -> None:
    """Stop a run whose loss or gradient was not finite.

    Args:
        state: after some steps.
        config: of the run, for advice.

    Raises:
        DivergenceError: if it was not.
    """
    bad_step = int(state.bad_step)
    if bad_step >= 0:
        raise DivergenceError(_advice(bad_step, config))


def _advice(step: int, config: RunConfig) -> str:
    return (
        f"loss or gradient: expected finite numbers, got NaN or inf at step {step}; rows and checkpoints before it "
        f"are kept in {config.directory}; try a learning rate below {config.learning_rate:g}, or warmup_steps"
    )
