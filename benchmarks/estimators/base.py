"""What an estimator is, and where all of them are kept."""

import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from benchmarks.estimators.request import Request
from benchmarks.names import check_name
from cljax._registry import lookup

# PyTorch's idle threads would spin, and slow down whatever runs next on the same cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CONTROLS = ("tolerance", "budget", "none")


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A way to do a task.

    Attributes:
        name: what the results call it, the package first.
        task: name of the task.
        setup: ``setup(request)``, whose result ``run(seed)`` is timed and returns what the task asks for.
        package: module that it needs, or "" for nothing beyond this project.
        distribution: what is installed to have it.
        control: "tolerance" if it stops by itself where it takes an error to be small enough, "budget" if it is told
            how many products to use, "none" if there is nothing to choose.
        settings: how it is set, so that it is shown at its best.
        counts: whether its products can be counted.
        revision: of a user's file: what tells its contents from others.
    """

    name: str
    task: str
    setup: Callable[[Request], Callable[[int], Any]]
    package: str = ""
    distribution: str = ""
    control: str = "none"
    settings: str = ""
    counts: bool = True
    revision: str = ""

    @property
    def version(self) -> str | None:
        """The revision of its file, or the version of its package; None where that is missing."""
        if self.package and not _is_there(self.package):
            return None
        if self.revision:
            return self.revision
        if not self.package:
            return importlib.metadata.version("cljax")
        try:
            return importlib.metadata.version(self.distribution or self.package)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # the package that it is a part of is missing
        return False


ESTIMATORS: dict[tuple[str, str], Estimator] = {}
"""All estimators by task and name."""


def estimator(
    name: str,
    task: str,
    *,
    package: str = "",
    distribution: str = "",
    control: str = "none",
    settings: str = "",
    counts: bool = True,
) -> Callable[[Any], Any]:
    """Register ``setup(request) -> run`` as an estimator.

    Args:
        name: what results call it.
        task: name of the task.
        package: module that it needs, imported inside of the function.
        distribution: what is installed to have it, where it has another name.
        control: see ``Estimator``.
        settings: how it is set.
        counts: whether its products can be counted.

    Returns:
        A decorator that returns the function as it was.

    Raises:
        ValueError: if the name is none or is taken, or the control is not known.
    """
    check_name(name)
    lookup("control", dict.fromkeys(CONTROLS), control)
    if (task, name) in ESTIMATORS:
        raise ValueError(f"name: expected one that is free for task {task!r}, got {name!r}")

    def register(setup: Any) -> Any:
        ESTIMATORS[task, name] = Estimator(name, task, setup, package, distribution, control, settings, counts)
        return setup

    return register


def quadratures(name: str, word: str, make: Callable[[int], Any], **options: Any) -> None:
    """Register two densities: of one run that has all products, and of four that share them.

    Args:
        name: of the estimator, without the number of runs.
        word: what the package calls a run.
        make: ``make(number of runs)`` gives ``setup``.
        **options: as for ``estimator``.
    """
    for number in (1, 4):
        full_name = f"{name}, {number} {word}{'s' if number > 1 else ''}"
        estimator(full_name, "density", control="budget", **options)(make(number))


def estimators_of(task: str) -> list[Estimator]:
    """The estimators of a task, in the order of their registration.

    Args:
        task: its name.

    Returns:
        The estimators, those whose package is missing included.
    """
    return [found for (name, _), found in ESTIMATORS.items() if name == task]
