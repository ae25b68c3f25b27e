"""Extreme eigenvalues: the greatest one, the five greatest, and both ends."""

from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.networks import STAGES
from benchmarks.tasks.base import Group, Task, answered, matrices, networks

QUESTIONS = {
    "top 5": {"num_top": 5},
    "top 1": {"num_top": 1},
    "both ends": {"num_top": 1, "num_bottom": 1},
}
BOTH = ("indefinite", "mlp end", "lenet end")
NAMES = ("mlp", "lenet", "vit", "transformer", "resnet18")
"""Networks at all stages of training."""
FEW = (6, 8, 10, 12, 16, 20, 30, 50)
"""Budgets where one eigenvalue, or one at each end, is wanted."""


def _groups(size: str) -> list[Group]:
    places = [(name, stage) for name in NAMES for stage in STAGES]
    if size == "small":  # each stage of the ResNet-18 would take long to compile
        places = [("logistic", "end"), *(place for place in places if place[0] != "resnet18"), ("resnet18", "end")]
    elif size == "tiny":
        places = [("mlp", "end")]
    found = []
    for name, make in matrices(size, ("outliers", "indefinite", "polynomial")) + networks(size, *places):
        for setting, options in QUESTIONS.items():
            if setting == "top 5" or name in BOTH:
                few = None if setting == "top 5" or size == "tiny" else FEW
                found.append(Group(name, make, setting, options, budgets=few))
    return found


def _score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    exact = case.reference.wanted(group.options.get("num_top", 0), group.options.get("num_bottom", 0))
    found = answered(answer, exact.shape)
    if np.any(np.diff(found) < 0):
        raise ValueError("answer: expected ascending eigenvalues")
    return {"error": float(np.max(np.abs(found - exact) / np.abs(exact)))}


EXTREMES = Task(
    "extremes",
    "extreme eigenvalues; error: greatest relative error of those wanted",
    _groups,
    _score,
    tolerances={"tiny": (1e-2,), "small": (1e-1, 1e-2, 1e-4, 1e-6), "full": (1e-1, 1e-2, 1e-3, 1e-5)},
    budgets={"tiny": (20,), "small": (12, 14, 16, 18, 20, 22, 25, 30, 50), "full": (10, 15, 20, 25, 30, 50)},
    num_seeds=3,
)
