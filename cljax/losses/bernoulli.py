"""Negative binary entropy on the cube: the logistic function and the binary cross-entropy."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py, xlogy

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class Bernoulli(Regularizer):
    """Ω(y) = Σ y log y + (1−y) log(1−y) on [0, 1]^K; its loss is the sum over K of binary KL divergences, in nats."""

    domain: ClassVar[str] = "probabilities of events: entries of at least 0 and at most 1"

    @property
    def strong_convexity(self) -> float:
        """4: ∇²Ω* = diag σ(f)σ(−f) has no entry above 1/4."""
        return 4.0

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """Σ y log y + (1−y) log(1−y), and +inf outside of the cube."""
        outside = (targets < 0) | (targets > 1)
        y = jnp.where(outside, 0.5, targets)
        return jnp.sum(jnp.where(outside, jnp.inf, xlogy(y, y) + xlog1py(1 - y, -y)), axis=-1)

    @one_program
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """Σ log(1 + exp f)."""
        return jnp.sum(jax.nn.softplus(scores), axis=-1)

    @one_program
    def predict(self, scores: jax.Array) -> jax.Array:
        """1 / (1 + exp(−f)), coordinate by coordinate."""
        return jax.nn.sigmoid(scores)

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = diag √(σ(f) σ(−f))."""
        return jnp.exp(0.5 * (jax.nn.log_sigmoid(scores) + jax.nn.log_sigmoid(-scores))) * u

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v: S is diagonal."""
        return self.factor_product(scores, v)

    @one_program
    def quadratic_coefficient(self, scores: jax.Array) -> jax.Array:
        """1 / min p(1 − p): the divergence is at most Σ (y − p)² / (p(1 − p)), Pearson's χ²."""
        return jnp.exp(-jnp.min(jax.nn.log_sigmoid(scores) + jax.nn.log_sigmoid(-scores), axis=-1))

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Σ y softplus(−f) + (1−y) softplus(f) + Ω(y): both terms vanish where the prediction is right."""
        cross = targets * jax.nn.softplus(-scores) + (1 - targets) * jax.nn.softplus(scores)
        return jnp.sum(cross, axis=-1) + self.value(targets)


def bernoulli() -> Bernoulli:
    """Negative binary entropy on the cube, in nats: prediction the logistic function, loss binary cross-entropy.

    Returns:
        The regularizer Ω(y) = Σ y log y + (1−y) log(1−y); targets are points of [0, 1]^K of the shape of the scores,
        class labels that stand for one-hot vectors, or, where K = 1, values of shape ``scores.shape[:-1]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.bernoulli().predict(jnp.zeros(1)).item()
        0.5
    """
    return Bernoulli()
