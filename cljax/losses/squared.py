"""Half the squared Euclidean norm: the identity and least squares."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class Squared(Regularizer):
    """Ω(y) = |y|²/2, its own conjugate; its Fenchel-Young loss is |y − f|²/2."""

    domain: ClassVar[str] = "any real vectors"

    @property
    def strong_convexity(self) -> float:
        """1: ∇²Ω = I."""
        return 1.0

    @property
    def smoothness(self) -> float:
        """1: ∇²Ω = I."""
        return 1.0

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """|y|²/2."""
        return 0.5 * jnp.sum(targets * targets, axis=-1)

    @one_program
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """|f|²/2."""
        return 0.5 * jnp.sum(scores * scores, axis=-1)

    @one_program
    def predict(self, scores: jax.Array) -> jax.Array:
        """The scores themselves."""
        return scores

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = I."""
        return jnp.broadcast_to(u, jnp.broadcast_shapes(scores.shape, u.shape))

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v with S = I."""
        return jnp.broadcast_to(v, jnp.broadcast_shapes(scores.shape, v.shape))

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """|y − f|²/2."""
        difference = scores - targets
        return 0.5 * jnp.sum(difference * difference, axis=-1)


def squared() -> Squared:
    """Half the squared Euclidean norm: prediction the identity, loss |y − f|²/2.

    Returns:
        The regularizer Ω(y) = |y|²/2; targets are vectors, or class labels that stand for one-hot vectors.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.squared().value(jnp.array([3.0, 4.0])).item()
        12.5

    References:
        arXiv:2608.09523, after Corollary 5.2.
    """
    return Squared()
