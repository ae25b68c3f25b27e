"""Poisson counts: the exponential as prediction and the Poisson deviance as loss."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class Poisson(Regularizer):
    """Ω(y) = Σ y log y − y on y ≥ 0; its loss is Σ y log(y/λ) − y + λ with the rate λ = exp f.

    Neither strongly convex (∇²Ω = diag 1/y vanishes for great counts) nor smooth (it is unbounded near 0). Rates
    beyond the dtype's range are +inf, as they are.
    """

    domain: ClassVar[str] = "counts or rates: entries of at least 0"

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """Σ y log y − y, and +inf where an entry is negative."""
        outside = targets < 0
        y = jnp.where(outside, 1, targets)
        return jnp.sum(jnp.where(outside, jnp.inf, xlogy(y, y) - y), axis=-1)

    @one_program
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """Σ exp f."""
        return jnp.sum(jnp.exp(scores), axis=-1)

    @one_program
    def predict(self, scores: jax.Array) -> jax.Array:
        """The rates exp f."""
        return jnp.exp(scores)

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = diag exp(f/2)."""
        return jnp.exp(0.5 * scores) * u

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v: S is diagonal."""
        return self.factor_product(scores, v)

    @one_program
    def quadratic_coefficient(self, scores: jax.Array) -> jax.Array:
        """1 / min λ with the rates λ: the divergence is at most Σ (y − λ)² / λ, Pearson's χ²."""
        return jnp.exp(-jnp.min(scores, axis=-1))

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Σ y (exp u − 1 − u) with u = f − log y, and exp f where y is 0."""
        outside, empty = targets < 0, targets == 0
        y = jnp.where(outside | empty, 1, targets)
        u = scores - jnp.log(y)
        terms = jnp.where(empty, jnp.exp(scores), y * (jnp.expm1(u) - u))
        return jnp.sum(jnp.where(outside, jnp.inf, terms), axis=-1)


def poisson() -> Poisson:
    """Regularizer of Poisson counts: prediction exp f, loss half of the Poisson deviance, in nats.

    Returns:
        The regularizer Ω(y) = Σ y log y − y; targets are counts or rates of the shape of the scores, class labels that
        stand for one-hot counts, or, where K = 1, counts of shape ``scores.shape[:-1]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.fenchel_young(losses.poisson())(jnp.zeros((1, 1)), jnp.array([[0.0]])).tolist()
        [1.0]
    """
    return Poisson()
