"""Negative Shannon entropy on the probability simplex: softmax and the cross-entropy."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, xlogy

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class Shannon(Regularizer):
    """Ω(p) = Σ p log p on the simplex; its Fenchel-Young loss is KL(y ‖ softmax(f)) in nats.

    2-strongly convex in the Euclidean norm, which is sharp: ∇²Ω* = diag p − p pᵀ has no eigenvalue above 1/2. Not
    smooth: its gradient is unbounded at the border of the simplex.
    """

    domain: ClassVar[str] = "probabilities: entries of at least 0 whose sum is 1"
    on_simplex: ClassVar[bool] = True

    @property
    def strong_convexity(self) -> float:
        """2: ∇²Ω* = diag p − p pᵀ has no eigenvalue above 1/2."""
        return 2.0

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """Σ p log p, and +inf where p is not on the simplex up to the square root of the dtype's eps."""
        outside = simplex_distance(targets) > jnp.finfo(targets.dtype).eps ** 0.5
        inside = jnp.sum(xlogy(targets, jnp.where(outside[..., None], 1, targets)), axis=-1)
        return jnp.where(outside, jnp.inf, inside)

    @one_program
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """Log of the sum of exponentials."""
        return logsumexp(scores, axis=-1)

    @one_program
    def predict(self, scores: jax.Array) -> jax.Array:
        """Softmax."""
        return jax.nn.softmax(scores, axis=-1)

    @one_program
    def hessian_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """(diag p − p pᵀ) v."""
        p = self.predict(scores)
        return p * (v - jnp.sum(p * v, axis=-1, keepdims=True))

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = diag(√p) − p √pᵀ."""
        root, p = _root(scores), self.predict(scores)
        return root * u - p * jnp.sum(root * u, axis=-1, keepdims=True)

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v with S = diag(√p) − p √pᵀ."""
        return _root(scores) * (v - jnp.sum(self.predict(scores) * v, axis=-1, keepdims=True))

    @one_program
    def quadratic_coefficient(self, scores: jax.Array) -> jax.Array:
        """1 / min p: the divergence is at most Σ (y − p)² / p, Pearson's χ²."""
        return jnp.exp(-jnp.min(jax.nn.log_softmax(scores, axis=-1), axis=-1))

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """KL(y ‖ softmax(f)), accurate to rounding where the prediction is all but certain and right."""
        top = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=bool)
        greatest = jnp.sum(jnp.where(top, scores, 0), axis=-1, keepdims=True)
        rest = jnp.sum(jnp.where(top, 0, jnp.exp(scores - greatest)), axis=-1)
        # a class that is ruled out by a score of −inf costs nothing unless the target has it
        asked = targets != 0
        gap = jnp.sum(jnp.where(asked, targets * (greatest - jnp.where(asked, scores, 0)), 0), axis=-1)
        return jnp.log1p(rest) + gap + self.value(targets)


def simplex_distance(targets: jax.Array) -> jax.Array:
    """How far points are off the simplex: +inf with a negative entry, else |Σ p − 1|; (..., K) -> (...)."""
    return jnp.where(jnp.min(targets, axis=-1) < 0, jnp.inf, jnp.abs(jnp.sum(targets, axis=-1) - 1))


def _root(scores: jax.Array) -> jax.Array:
    # exp of half the logarithm: p may underflow where its root does not
    return jnp.exp(0.5 * jax.nn.log_softmax(scores, axis=-1))


def shannon() -> Shannon:
    """Negative Shannon entropy on the simplex, in nats: prediction softmax, loss the KL divergence.

    Returns:
        The regularizer Ω(p) = Σ p log p; targets are class labels or points of the simplex.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.shannon().predict(jnp.zeros((1, 2))).tolist()
        [[0.5, 0.5]]

    References:
        arXiv:2608.09523, after Corollary 5.2.
    """
    return Shannon()
