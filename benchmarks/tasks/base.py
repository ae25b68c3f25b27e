"""A task: cases, what is asked of estimators on each, and how answers are scored."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import synthetic
from benchmarks.cases import Case
from benchmarks.networks import STAGES, network_case
from benchmarks.references import reference_of

SIZES = ("tiny", "small", "full")


@dataclasses.dataclass(frozen=True)
class Group:
    """Estimators that are compared with each other: one case, one question.

    Attributes:
        case: name of the case.
        make: makes it.
        setting: what is asked, in words; "" where the task asks but one thing.
        options: of the ``Request``: num_top, num_bottom, kind.
        budgets: of estimators under control of "budget", in place of those of the task.
    """

    case: str
    make: Callable[[], Case]
    setting: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    budgets: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        """What results call it: the case and what is asked of it."""
        return f"{self.case}, {self.setting}" if self.setting else self.case


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: what the command line calls it.
        summary: one line for its help.
        groups: size -> groups.
        score: ``score(answer, case, group)``: numbers by name, among them "error"; None where nothing is scored.
        tolerances: relative errors that estimators under control of "tolerance" are asked for, by size.
        budgets: products that estimators under control of "budget" are given, by size.
        num_seeds: runs of each estimator that are scored.
        only: names of estimators, where the task does not compare all of them.
        of: the task whose estimators these are, where it is another one.
    """

    name: str
    summary: str
    groups: Callable[[str], list[Group]]
    score: Callable[[Any, Case, Group], dict[str, float]] | None
    tolerances: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    budgets: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    num_seeds: int = 1
    only: tuple[str, ...] | None = None
    of: str | None = None


WITH_SPECTRA = (*(("mlp", stage) for stage in STAGES), ("transformer", "end"), ("vit", "end"))
"""Some networks that are small enough at size "small" for all of their eigenvalues."""


def matrix_case(name: str, dimension: int) -> Case:
    """A matrix with a known spectrum.

    Args:
        name: one of ``synthetic.SPECTRA``.
        dimension: a power of 4.

    Returns:
        The case.
    """
    values = synthetic.SPECTRA[name](dimension)
    return Case(
        name,
        {"spectrum": name, "dimension": dimension},
        synthetic.mixed_operator(values),
        lambda: reference_of(values, synthetic.exact_diagonal(values), "eigenvalues that it was made of"),
        torch_product=lambda: synthetic.torch_product(values),
        dense=lambda: synthetic.dense_matrix(values),
    )


def matrices(size: str, names: Any = tuple(synthetic.SPECTRA)) -> list[tuple[str, Callable[[], Case]]]:
    """Makers of matrices by name.

    Args:
        size: one of ``SIZES``.
        names: of ``synthetic.SPECTRA``.

    Returns:
        Pairs (name, maker).
    """
    dimension = {"tiny": 256, "small": 4096, "full": 16384}[size]
    return [(name, lambda name=name: matrix_case(name, dimension)) for name in names]


def networks(size: str, *places: tuple[str, str]) -> list[tuple[str, Callable[[], Case]]]:
    """Makers of Hessians of networks by name.

    Args:
        size: one of ``SIZES``.
        *places: pairs of network and stage.

    Returns:
        Pairs (name, maker).
    """
    return [
        (
            name if name in {"linear", "logistic"} else f"{name} {stage}",
            lambda n=name, s=stage: network_case(n, size, s),
        )
        for name, stage in places
    ]


def answered(answer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An answer as an array in float64.

    Args:
        answer: what an estimator returned.
        shape: that the task asks for.

    Returns:
        The array.

    Raises:
        ValueError: if it has another shape, which would be broadcast, or is complex.
    """
    found = np.asarray(answer)
    if np.iscomplexobj(found):
        raise ValueError(f"answer: expected real numbers, got {found.dtype}")
    found = found.astype(np.float64)
    if found.shape != shape:
        raise ValueError(f"answer: expected shape {shape}, got {found.shape}")
    return found


def relative_error(answer: Any, exact: np.ndarray) -> float:
    """‖answer − exact‖ / ‖exact‖ in float64."""
    return float(np.linalg.norm(answered(answer, exact.shape) - exact) / np.linalg.norm(exact))
