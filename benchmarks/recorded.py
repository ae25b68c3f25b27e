"""Training runs recorded at each measurement, along which the top eigenvalue is tracked."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Reference
from benchmarks.networks import Network, Spec, as_case
from benchmarks.references import cached
from cljax.training.config import RunConfig
from cljax.training.run import make_run

RUNS: dict[str, dict[str, RunConfig]] = {
    "digits": {
        "tiny": RunConfig(num_steps=6, measure_every=2, measure_examples=16, model_option=("hidden=(4,)",)),
        "small": RunConfig(),
        "full": RunConfig(measure_every=20),
    },
    "noisy": {
        "small": RunConfig(batch_size=8, learning_rate=0.02, schedule="constant", num_steps=300, measure_every=10),
        "full": RunConfig(batch_size=8, learning_rate=0.02, schedule="constant", num_steps=600, measure_every=10),
    },
}
"""Runs as ``cljax track`` makes them: its default, and one of small batches at a constant rate, measured more often."""


def tracked_case(name: str, size: str) -> Case:
    """The Hessians along a run, on the examples on which ``cljax track`` measures.

    Args:
        name: one of ``RUNS``.
        size: one of its sizes.

    Returns:
        A case with ``points``; its reference has the top eigenvalue of each, not sorted.
    """
    config = RUNS[name][size]
    steps = [*range(0, config.num_steps, config.measure_every), config.num_steps]
    run, state = make_run(dataclasses.replace(config, num_devices=1))
    treedef = jax.tree.structure(state.train.params)

    def record() -> dict[str, np.ndarray]:
        train, found = state.train, {}
        for step in range(config.num_steps + 1):
            if step in steps:
                found |= {f"{step}-{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(train.params))}
            if step < config.num_steps:
                train = run.step_fn(train, run.put(run.batches(step)))
        return found

    label = {"recorded": dataclasses.asdict(config)}
    saved = cached(label, record)
    spec = Spec(config.model, tuple(run.apply_fn.options), num_examples=config.measure_examples)
    batch = jax.tree.map(jnp.asarray, jax.device_get(run.curvature_batch))
    networks = [
        Network(
            spec,
            run.apply_fn,
            run.loss,
            treedef.unflatten([jnp.asarray(saved[f"{step}-{i}"]) for i in range(treedef.num_leaves)]),
            batch,
        )
        for step in steps
    ]
    points = tuple(
        as_case(network, f"{name} {step}", {"step": step} | label)
        for step, network in zip(steps, networks, strict=True)
    )
    described = {"run": dataclasses.asdict(config), "points": len(points), "dimension": points[0].dimension}
    return Case(name, described, points[0].op, lambda: _tops(points), networks[0], points=points)


def _tops(points: tuple[Case, ...]) -> Reference:
    tops = np.asarray([point.reference.wanted(1, 0)[0] for point in points])
    return Reference(None, None, (tops[:0], tops), points[0].reference.source)


def share_within(found: np.ndarray, exact: np.ndarray, tolerance: float) -> float:
    """Share of the measurements whose relative error is at most the tolerance.

    Args:
        found: (m,).
        exact: (m,).
        tolerance: relative.

    Returns:
        Between 0 and 1.
    """
    return float(np.mean(np.abs(found - exact) <= tolerance * np.abs(exact)))


def summary(found: Any, exact: np.ndarray) -> dict[str, float]:
    """Scores of a tracked run.

    Args:
        found: (m,), values in the order of the measurements.
        exact: (m,).

    Returns:
        Worst relative error, and the share of measurements within 1e-3.
    """
    errors = np.abs(np.asarray(found, np.float64) - exact) / np.abs(exact)
    return {"error": float(np.max(errors)), "share_within_1e-3": share_within(np.asarray(found), exact, 1e-3)}
