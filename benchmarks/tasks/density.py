"""Spectral densities: Wasserstein-1 distance to the exact spectrum."""

from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.tasks.base import WITH_SPECTRA, Group, Task, answered, matrices, networks


def wasserstein(nodes: Any, weights: Any, eigenvalues: np.ndarray) -> float:
    """∫ |F − G| of two distributions, in units of the greatest magnitude of an eigenvalue.

    Args:
        nodes: points, any shape.
        weights: their weights, same shape; they need not sum to 1.
        eigenvalues: (n,), equal weights.

    Returns:
        The distance.
    """
    points = np.concatenate([np.ravel(nodes).astype(np.float64), eigenvalues])
    first = np.ravel(weights).astype(np.float64)
    mass = np.concatenate([first / first.sum(), np.full(len(eigenvalues), -1 / len(eigenvalues))])
    order = np.argsort(points, kind="stable")
    difference = np.abs(np.cumsum(mass[order])[:-1])
    return float(np.sum(difference * np.diff(points[order])) / np.max(np.abs(eigenvalues)))


def _groups(size: str) -> list[Group]:
    places = [("mlp", "end")] if size == "tiny" else [("linear", "end"), *WITH_SPECTRA]
    found = matrices(size) + ([] if size == "full" else networks(size, *places))
    return [Group(name, make) for name, make in (found if size != "tiny" else found[-2:])]


def _score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    nodes, weights = answer
    nodes = answered(nodes, np.shape(nodes))
    weights = answered(weights, nodes.shape)
    if weights.min() < 0:
        raise ValueError(f"answer: expected weights of at least 0, got {weights.min():g}")
    return {"error": wasserstein(nodes, weights, case.reference.eigenvalues)}


DENSITY = Task(
    "density",
    "spectral densities; error: Wasserstein-1 distance to the exact spectrum / its greatest magnitude",
    _groups,
    _score,
    budgets={"tiny": (20,), "small": (50, 100, 200), "full": (25, 50, 100, 200)},
    num_seeds=5,
)
