"""What estimators are compared on: an operator, what is known of it exactly, and the network that it comes from."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cljax.curvature import LinearOperator


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is known of an operator, in float64.

    Attributes:
        eigenvalues: (n,), all of them, ascending; or None.
        diagonal: (n,), in the order of the leaves; or None.
        extremes: (bottom, top), some extreme eigenvalues, each array ascending: all that is known where the operator is
            too large for ``eigenvalues``.
        source: how it was found.
    """

    eigenvalues: np.ndarray | None
    diagonal: np.ndarray | None
    extremes: tuple[np.ndarray, np.ndarray]
    source: str

    def wanted(self, num_top: int, num_bottom: int) -> np.ndarray:
        """The extreme eigenvalues, bottom ones first, ascending.

        Args:
            num_top: how many of the greatest.
            num_bottom: how many of the least.

        Returns:
            Shape (num_bottom + num_top,).
        """
        bottom, top = self.extremes
        return np.concatenate([bottom[:num_bottom], top[len(top) - num_top :]])


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An operator to be estimated.

    Attributes:
        name: what the results call it.
        config: what it was made of, for the results.
        op: the operator, in float32.
        find_reference: what computes the reference; called once, when it is needed.
        network: where it is a Hessian: the ``networks.Network``.
        torch_product: where it is a matrix: makes the same product on tensors of PyTorch.
        dense: where it is a matrix: makes it as an array, for estimators that take nothing else.
        points: where it is a training run: the Hessians along it, one case each; ``op`` is then the first.
    """

    name: str
    config: dict[str, Any]
    op: LinearOperator
    find_reference: Callable[[], Reference]
    network: Any = None
    torch_product: Callable[[], Any] | None = None
    dense: Callable[[], np.ndarray] | None = None
    points: "tuple[Case, ...]" = ()

    @functools.cached_property
    def reference(self) -> Reference:
        """What is known of the operator."""
        return self.find_reference()

    @property
    def dimension(self) -> int:
        """Length n of the vectors."""
        return self.config["dimension"]
