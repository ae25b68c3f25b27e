"""The top eigenvalue along recorded training runs."""

from typing import Any

from benchmarks.cases import Case
from benchmarks.recorded import RUNS, summary, tracked_case
from benchmarks.tasks.base import Group, Task, answered


def _groups(size: str) -> list[Group]:
    return [Group(name, lambda name=name: tracked_case(name, size)) for name, sizes in RUNS.items() if size in sizes]


def _score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    exact = case.reference.extremes[1]
    return summary(answered(answer, exact.shape), exact)


TRACKED = Task(
    "tracked",
    "the top eigenvalue along recorded runs; error: the greatest relative error of a measurement",
    _groups,
    _score,
    tolerances={"tiny": (1e-2,), "small": (1e-2, 1e-3, 1e-4), "full": (1e-2, 1e-3)},
    budgets={"tiny": (6,), "small": (3, 5, 8, 12, 20), "full": (5, 10, 20)},
    num_seeds=3,
)
