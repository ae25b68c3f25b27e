"""Fenchel-Young losses: d(y, f) = Ω(y) + Ω*(f) − <f, y>."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class FenchelYoungLoss:
    """The loss of one regularizer, called as ``loss(scores, targets)``; equal by value and hashable.

    Attributes:
        regularizer: Ω.
    """

    regularizer: Regularizer

    def __call__(self, scores: jax.Array, targets: Any) -> jax.Array:
        """Loss of each example, 0 up to rounding where the prediction is the target.

        Args:
            scores: shape (..., K), a floating dtype; half precision is computed in float32.
            targets: soft targets of shape (..., K), or integer labels of shape (...); see ``Regularizer.encode``.

        Returns:
            Shape (...), never reduced, in nats for entropies; NaN for labels out of range, +inf for soft targets
            outside of the domain of Ω.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if scores are not floating, or labels are not integers.
        """
        scores = jnp.asarray(scores)
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(f"scores: expected a floating dtype, got {scores.dtype}; cast the model's output")
        if scores.ndim == 0:
            raise ValueError("scores: expected shape (..., K), got a scalar; add a last axis of length 1")
        return self._examples(scores, jnp.asarray(targets))

    @one_program
    def _examples(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        return self.regularizer.divergence(scores, self.regularizer.encode(targets, scores))


def fenchel_young(regularizer: Regularizer) -> FenchelYoungLoss:
    """Per-example Fenchel-Young loss of a regularizer, with Ω(y) included.

    Args:
        regularizer: Ω, for example ``losses.shannon()``.

    Returns:
        A hashable function ``loss(scores, targets)`` of shapes (..., K) and (..., K) or (...) to (...). Its gradient
        in the scores is ∇Ω*(f) − y and its Hessian ∇²Ω*(f).

    Raises:
        TypeError: if ``regularizer`` is no ``Regularizer``, or is not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> loss = losses.fenchel_young(losses.squared())
        >>> loss(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
        [2.0]

    References:
        arXiv:2608.09523, equation 2 and Lemma 8.6.
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(
            f"regularizer: expected a cljax Regularizer, got {type(regularizer).__name__}; try losses.shannon()"
        )
    try:
        hash(regularizer)
    except TypeError as error:
        name = type(regularizer).__name__
        raise TypeError(
            f"regularizer: expected one that is hashable, got {name} ({error}); make it a frozen dataclass of numbers"
        ) from None
    return FenchelYoungLoss(regularizer)
