"""The theory read off a run: bounds of loss and risk at its checkpoints."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cljax._batch import Batch
from cljax._typing import PyTree
from cljax.losses.shannon import Shannon
from cljax.parallel.distributed import is_writer
from cljax.parallel.placement import host_values
from cljax.theory.energy_split import EnergySplit, gradient_energy_split
from cljax.theory.entropy import conditional_entropy
from cljax.theory.generalization import GeneralizationBounds, Sample, generalization_bounds
from cljax.theory.groups import group_ids
from cljax.theory.risk import RiskBounds, risk_bounds
from cljax.training.checkpoint import CheckpointError, Checkpoints
from cljax.training.config import RunConfig, write_text
from cljax.training.loop import CHECKPOINTS, CONFIG
from cljax.training.run import Run, RunState, make_run

BOUNDS = "bounds.json"


@dataclasses.dataclass(frozen=True)
class CheckpointBounds:
    """What holds at one checkpoint, on the examples measured.

    Attributes:
        step: of the checkpoint.
        risk: bounds of each example's loss and of their mean, in the tightest true form.
        paper: the form that arXiv:2608.09523 prints for softmax, to compare; None for other losses.
        energy: gradient energy and its parts.
    """

    step: int
    risk: RiskBounds
    paper: RiskBounds | None
    energy: EnergySplit


@dataclasses.dataclass(frozen=True)
class RunBounds:
    """Bounds along a run.

    Attributes:
        path: the JSON file written.
        checkpoints: oldest first.
        floor: H_Ω(Y|X) of the whole training set: no model of these inputs has a lower training risk.
        num_duplicates: training examples whose input occurs more than once.
        generalization: at the last checkpoint, with the predicted class as feature.
        notes: checkpoints that could not be read.
    """

    path: pathlib.Path
    checkpoints: list[CheckpointBounds]
    floor: float
    num_duplicates: int
    generalization: GeneralizationBounds
    notes: tuple[str, ...] = ()


def run_bounds(
    run_dir: str | pathlib.Path,
    *,
    num_examples: int = 128,
    num_devices: int | None = None,
    mesh: str | None = None,
    progress_fn: Callable[[int], None] | None = None,
) -> RunBounds:
    """Measure bounds at every readable checkpoint of a run and write them to bounds.json.

    With several processes all must call, and process 0 writes.

    Args:
        run_dir: folder of the run.
        num_examples: training examples, the first of those on which curvature is measured.
        num_devices: devices to measure with; as the run's configuration says where None.
        mesh: their axes, the same.
        progress_fn: called with the step of each checkpoint before it is measured.

    Returns:
        The bounds, their assumptions and coverage.

    Raises:
        ValueError: if the folder holds no run or one on sequences, or ``num_examples`` is below 1.
        CheckpointError: if no checkpoint can be read.
    """
    if num_examples < 1:
        raise ValueError(f"num_examples: expected an integer of at least 1, got {num_examples}")
    directory = pathlib.Path(run_dir)
    run, like = make_run(RunConfig.load(directory / CONFIG).on_devices(num_devices, mesh))
    if run.dataset.train_targets.ndim != 1:
        raise ValueError(
            f"run_dir: expected a run with one prediction an example, got {run.dataset.name}, which has one a token; "
            "its bounds need structure matrices, which sequences do not have here"
        )
    checkpoints = Checkpoints(directory / CHECKPOINTS, run.config.keep_checkpoints)
    notes: list[str] = []
    found, state = [], like
    # whole in each process: targets are checked, and equal inputs found, on the host
    batch: Batch = host_values(jax.tree.map(lambda x: x[:num_examples], run.curvature_batch))
    for step in checkpoints.steps():
        if progress_fn is not None:
            progress_fn(step)
        try:
            state = checkpoints.restore(like, step).state
        except CheckpointError as error:
            notes.extend(error.skipped)
            continue
        found.append(_at(run, state, step, batch))
    if not found:
        why = "; ".join(notes) or "there is none"
        raise CheckpointError(f"{directory}: expected a readable checkpoint, got none ({why}); run it anew")
    labels, ids = run.dataset.train_targets, group_ids(run.dataset.train_inputs)
    counts = np.bincount(ids)
    floor = conditional_entropy(run.loss, labels, ids, num_classes=run.dataset.num_classes)
    generalization = _generalization(run, state.train.params)
    result = RunBounds(
        directory / BOUNDS, found, float(floor), int(np.sum(counts[ids] > 1)), generalization, tuple(notes)
    )
    if is_writer():
        write_text(result.path, json.dumps(_as_json(result), indent=1) + "\n")
    return result


def _at(run: Run, state: RunState, step: int, batch: Batch) -> CheckpointBounds:
    params = state.train.params
    risk = risk_bounds(run.apply_fn, run.loss, params, batch)
    paper = None
    if isinstance(run.loss.regularizer, Shannon):
        paper = risk_bounds(run.apply_fn, run.loss, params, batch, kind="paper_softmax")
    energy = gradient_energy_split(run.apply_fn, run.loss, params, batch, group_ids(batch.inputs))
    return CheckpointBounds(step, *host_values((risk, paper, energy)))


def _generalization(run: Run, params: PyTree) -> GeneralizationBounds:
    samples = []
    for batches in (run.train_eval, run.test_eval):
        parts = [_predict(run, params, batch) for batch in batches]
        samples.append(Sample(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    return generalization_bounds(*samples, loss=run.loss)


def _predict(run: Run, params: PyTree, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, targets, weight = host_values((jax.jit(run.apply_fn)(params, batch.inputs), batch.targets, batch.weight))
    counted = weight > 0
    return np.argmax(scores, -1)[counted], targets[counted], np.asarray(run.loss(scores, targets))[counted]


def _as_json(found: RunBounds) -> dict[str, Any]:
    return {
        "floor": found.floor,
        "num_duplicates": found.num_duplicates,
        "generalization": {name: _finite(value) for name, value in dataclasses.asdict(found.generalization).items()},
        "checkpoints": [
            {
                "step": at.step,
                **_summary(at.risk),
                "gradient_energy": float(at.energy.total),
                "gradient_energy_mean_part": float(at.energy.mean_part),
                "gradient_energy_noise_part": float(at.energy.noise_part),
                "paper": None if at.paper is None else _summary(at.paper),
            }
            for at in found.checkpoints
        ],
    }


def _summary(risk: RiskBounds) -> dict[str, Any]:
    counted = np.asarray(risk.weight) > 0
    return {
        "kind": risk.kind,
        "risk": _finite(float(risk.risk)),
        "risk_lower": _finite(float(risk.risk_lower)),
        "risk_upper": _finite(float(risk.risk_upper)),
        "coverage": _finite(float(risk.coverage)),
        "void": float(np.mean(np.asarray(risk.void)[counted])),
        "lambda_min": float(np.min(np.asarray(risk.lambda_min)[counted])),
        "lambda_max": float(np.max(np.asarray(risk.lambda_max)[counted])),
        "assumptions": {name: float(np.mean(np.asarray(held)[counted])) for name, held in risk.assumptions.items()},
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity: a void bound is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
