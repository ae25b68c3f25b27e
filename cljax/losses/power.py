"""Powers of the Euclidean norm."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax.losses.analytic import AnalyticRegularizer
from cljax.losses.programs import one_program


@dataclasses.dataclass(frozen=True)
class Power(AnalyticRegularizer):
    """Ω(y) = |y|^r / r with r > 1; its conjugate is |f|^q / q, 1/r + 1/q = 1.

    Only r = 2 is strongly convex or smooth. For r > 2 the Hessian of the conjugate is unbounded at f = 0, and there it
    is returned as +inf times the identity, which no product turns into a number.

    Attributes:
        exponent: r.
    """

    exponent: float
    domain: ClassVar[str] = "any real vectors"

    @property
    def dual_exponent(self) -> float:
        """The conjugate's exponent q = r / (r − 1)."""
        return self.exponent / (self.exponent - 1)

    @property
    def strong_convexity(self) -> float | None:
        """1 for r = 2."""
        return 1.0 if self.exponent == 2 else None

    @property
    def smoothness(self) -> float | None:
        """1 for r = 2."""
        return 1.0 if self.exponent == 2 else None

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """|y|^r / r."""
        return norm_power(targets, self.exponent)[..., 0] / self.exponent

    def _conjugate(self, scores: jax.Array) -> jax.Array:
        return norm_power(scores, self.dual_exponent)[..., 0] / self.dual_exponent

    def _predict(self, scores: jax.Array) -> jax.Array:
        return norm_power(scores, self.dual_exponent - 1) * _direction(scores)

    def _divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        gap = self.value(targets) + self._conjugate(scores) - jnp.sum(scores * targets, axis=-1)
        return jnp.maximum(gap, 0)

    @one_program
    def hessian_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """|f|^(q−2) (I + (q−2) u uᵀ) v with u = f / |f|."""
        q = self.dual_exponent
        direction = _direction(scores)
        along = jnp.sum(direction * v, axis=-1, keepdims=True)
        return norm_power(scores, q - 2) * (v + (q - 2) * along * direction)

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = |f|^(q/2−1) (I + (√(q−1) − 1) u uᵀ), symmetric."""
        q = self.dual_exponent
        direction = _direction(scores)
        along = jnp.sum(direction * u, axis=-1, keepdims=True)
        return norm_power(scores, q / 2 - 1) * (u + ((q - 1) ** 0.5 - 1) * along * direction)

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v: S is symmetric."""
        return self.factor_product(scores, v)


def _safe(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Greatest entry, and vector and norm in its units; ones in place of the zero vector, so that all is smooth."""
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    zero = scale == 0
    unit = jnp.where(zero, 1, x) / jnp.where(zero, 1, scale)
    return jnp.where(zero, 1, scale), unit, jnp.sqrt(jnp.sum(unit * unit, axis=-1, keepdims=True))


def norm_power(x: jax.Array, exponent: float) -> jax.Array:
    """|x|^exponent over the last axis, (..., 1); 0 or +inf at 0 as the exponent is positive or negative, 1 for 0.

    Args:
        x: shape (..., K).
        exponent: any real number.

    Returns:
        Shape (..., 1).
    """
    scale, _, norm = _safe(x)
    at_zero = 0.0 if exponent > 0 else 1.0 if exponent == 0 else jnp.inf
    return jnp.where(jnp.all(x == 0, axis=-1, keepdims=True), at_zero, (scale * norm) ** exponent)


def _direction(x: jax.Array) -> jax.Array:
    _, unit, norm = _safe(x)
    return jnp.where(jnp.all(x == 0, axis=-1, keepdims=True), 0, unit / norm)


def power(r: float) -> Power:
    """Regularizer |y|^r / r of the Euclidean norm: prediction |f|^(q−2) f, with q = r / (r − 1).

    Args:
        r: exponent, above 1.

    Returns:
        The regularizer; targets are vectors, or class labels that stand for one-hot vectors.

    Raises:
        ValueError: if r is not above 1 and finite: the conjugate would not be finite or not differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.power(4.0).predict(jnp.array([8.0])).round(4).tolist()
        [2.0]

    References:
        arXiv:2608.09523, Proposition 3.1.
    """
    if not 1 < r < float("inf"):
        raise ValueError(f"r: expected a finite exponent above 1, got {r}; try losses.power(1.5)")
    return Power(float(r))
