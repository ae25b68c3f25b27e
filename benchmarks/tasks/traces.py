"""Traces and diagonals from random probes."""

from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.tasks.base import WITH_SPECTRA, Group, Task, matrices, networks, relative_error

_TINY = ("exponential", "mlp end")
_BUDGETS = {"tiny": (30,), "small": (30, 60), "full": (30, 60, 120)}


def _trace_groups(size: str) -> list[Group]:
    found = matrices(size) + ([] if size == "full" else networks(size, *WITH_SPECTRA))
    return [Group(*pair) for pair in found if size != "tiny" or pair[0] in _TINY]


def _trace_score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    exact = case.reference.eigenvalues
    return {"error": abs(float(answer) - float(np.sum(exact))) / float(np.sum(np.abs(exact)))}


def _diagonal_groups(size: str) -> list[Group]:
    found = matrices(size, ("exponential", "outliers", "indefinite"))
    found += [] if size == "full" else networks(size, *WITH_SPECTRA)
    return [Group(*pair) for pair in found if size != "tiny" or pair[0] in _TINY]


def _diagonal_score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    return {"error": relative_error(answer, case.reference.diagonal)}


TRACE = Task(
    "trace",
    "traces; error: relative to the sum of the magnitudes of the eigenvalues",
    _trace_groups,
    _trace_score,
    budgets=_BUDGETS,
    num_seeds=7,
)
DIAGONAL = Task(
    "diagonal",
    "diagonals; error: norm of the difference / norm",
    _diagonal_groups,
    _diagonal_score,
    budgets=_BUDGETS,
    num_seeds=3,
)
