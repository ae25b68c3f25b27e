"""What an estimator is, what it is asked, and where all of them are kept."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.cases import Case
from benchmarks.counting import Counted, Counter, counted_function, num_columns
from benchmarks.names import check_name
from cljax import tree
from cljax._registry import lookup
from cljax.curvature import LinearOperator

# PyTorch's idle threads would spin, and slow down whatever runs next on the same cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CONTROLS = ("tolerance", "budget", "none")


class NotApplicableError(Exception):
    """What an estimator raises for a request that it cannot take; the message goes into the report."""


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One thing to be estimated.

    Attributes:
        case: the operator, and the network that it comes from.
        budget: products that may be used, for estimators under control of "budget".
        tolerance: relative error that is wanted, for estimators under control of "tolerance".
        num_top: greatest eigenvalues wanted.
        num_bottom: least eigenvalues wanted.
        kind: of curvature, where the task has several: "hessian", "gauss_newton" or "fisher".
        counter: counts products; None in runs that are timed.
    """

    case: Case
    budget: int = 0
    tolerance: float = 0.0
    num_top: int = 1
    num_bottom: int = 0
    kind: str = "hessian"
    counter: Counter | None = None

    @property
    def dimension(self) -> int:
        """Length n of the vectors."""
        return self.case.dimension

    @property
    def op(self) -> LinearOperator:
        """The operator of cljax, of the kind that is asked for, in float32."""
        return self.count_op(self._uncounted_op)

    @property
    def points(self) -> "list[Request]":
        """Along a training run: the same, asked of each of its Hessians."""
        return [dataclasses.replace(self, case=point) for point in self.case.points]

    def uncounted(self) -> "Request":
        """The same without a counter, with nothing set up but the network in PyTorch, which is the case's."""
        new = dataclasses.replace(self, counter=None)
        if "twin" in self.__dict__:
            new.__dict__["twin"] = self.twin
        return new

    def start(self, seed: int) -> np.ndarray:
        """A random start vector, (n,), float32."""
        return np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)

    @property
    def _uncounted_op(self) -> LinearOperator:
        return self.case.op if self.kind == "hessian" else self.case.network.operator(self.kind)

    def count_op(self, op: LinearOperator) -> LinearOperator:
        """An operator whose products count, where products are counted."""
        return op if self.counter is None else Counted(op, self.counter)

    def count(self, fn: Any, columns: Any = None) -> Any:
        """A function of the host whose calls count, where products are counted.

        Args:
            fn: the function through which a package multiplies.
            columns: ``columns(last argument)``, products in one call; None for one.

        Returns:
            A function.
        """
        return counted_function(self.counter, fn, columns)

    @functools.cached_property
    def scipy_operator(self) -> Any:
        """The operator for SciPy: one jitted program on flat float32 vectors, linearized once."""
        import scipy.sparse.linalg as sla

        op = self._uncounted_op
        product, like = _linearize(op), tree.zeros_like(op.struct)

        def multiply(v: np.ndarray) -> np.ndarray:
            return np.array(_apply(product, like, v.reshape(-1).astype(np.float32)))  # the caller's own, to write to

        n = self.dimension
        return sla.LinearOperator((n, n), matvec=self.count(multiply), dtype=np.float32)

    @functools.cached_property
    def twin(self) -> Any:
        """The network in PyTorch, with the same weights.

        Returns:
            A ``torch_models.Twin``.

        Raises:
            NotApplicableError: if the case is no network, or its model has no twin.
        """
        if self.case.network is None:
            raise NotApplicableError("takes networks of PyTorch")
        from benchmarks.torch_models import twin

        try:
            return twin(self.case.network)
        except NotImplementedError as error:
            raise NotApplicableError(str(error)) from None

    @functools.cached_property
    def torch_matrix(self) -> Any:
        """For cases that are matrices: the counted product on tensors of PyTorch, (n,) or (n, k).

        Returns:
            A function.

        Raises:
            NotApplicableError: if the case is none.
        """
        if self.case.torch_product is None:
            raise NotApplicableError("takes matrices")
        return self.count(self.case.torch_product(), num_columns)

    def dense(self) -> np.ndarray:
        """For cases that are matrices: all entries, float64.

        Returns:
            Shape (n, n).

        Raises:
            NotApplicableError: if the case is none.
        """
        if self.case.dense is None:
            raise NotApplicableError("takes stored matrices alone")
        return self.case.dense()


_linearize = jax.jit(lambda op: op.linearize())
_apply = jax.jit(lambda product, like, v: ravel_pytree(product(ravel_pytree(like)[1](v)))[0])


def flat_product(op: LinearOperator) -> Any:
    """The product on flat vectors, all work done that does not depend on the vector; for use inside of jit.

    Args:
        op: an operator.

    Returns:
        ``product(v)`` on vectors (n,).
    """
    product = op.linearize()
    unravel = ravel_pytree(tree.zeros_like(op.struct))[1]
    return lambda v: ravel_pytree(product(unravel(v)))[0]


def check_semidefinite(request: Request) -> None:
    """Decline what is known to have an eigenvalue below 0, or not known to have none.

    Args:
        request: whose case has a reference.

    Raises:
        NotApplicableError: if so.
    """
    values = request.case.reference.eigenvalues
    if values is None or values[0] < -1e-6 * values[-1]:
        raise NotApplicableError("takes semidefinite operators")


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
