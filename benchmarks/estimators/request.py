"""What an estimator is asked, and by what it multiplies."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.cases import Case
from benchmarks.counting import Counted, Counter, counted_function, num_columns
from cljax import tree
from cljax.curvature import LinearOperator


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
