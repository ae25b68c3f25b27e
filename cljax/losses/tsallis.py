"""Tsallis entropies on the simplex, between softmax and sparsemax: sparse predictions."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from cljax.losses.analytic import AnalyticRegularizer
from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer
from cljax.losses.shannon import shannon, simplex_distance


@dataclasses.dataclass(frozen=True)
class Tsallis(AnalyticRegularizer):
    """Ω(p) = Σ (p^α − p) / (α(α−1)) on the simplex, α > 1; its prediction is α-entmax.

    With p = ∇Ω*(f), and s = p^(2−α) where p > 0, the Hessian of the conjugate is diag s − s sᵀ / Σ s. Where the set of
    positive entries changes it has no derivative: there, the formula's value is an element of the generalized one.

    Attributes:
        alpha: α.
    """

    alpha: float
    domain: ClassVar[str] = "probabilities: entries of at least 0 whose sum is 1"
    on_simplex: ClassVar[bool] = True

    @property
    def strong_convexity(self) -> float | None:
        """1 for α of at most 2, whatever K; above, ∇²Ω = diag p^(α−2) vanishes at the border."""
        return 1.0 if self.alpha <= 2 else None

    @one_program
    def value(self, targets: jax.Array) -> jax.Array:
        """Σ (p^α − p) / (α(α−1)), and +inf where p is not on the simplex up to the square root of the dtype's eps."""
        outside = simplex_distance(targets) > jnp.finfo(targets.dtype).eps ** 0.5
        p = jnp.where(outside[..., None], 1, targets)
        return jnp.where(outside, jnp.inf, jnp.sum(self._entropy_term(p), axis=-1))

    def _entropy_term(self, p: jax.Array) -> jax.Array:
        # (p^α − p) without the cancellation near α = 1, and with a derivative at p = 0
        log = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
        return p * jnp.expm1((self.alpha - 1) * log) / (self.alpha * (self.alpha - 1))

    def _predict(self, scores: jax.Array) -> jax.Array:
        return _entmax(scores, self.alpha)

    def _conjugate(self, scores: jax.Array) -> jax.Array:
        greatest = jnp.max(scores, axis=-1, keepdims=True)
        p = self._predict(scores)
        product = jnp.where(p > 0, p * (scores - greatest), 0)
        return greatest[..., 0] + jnp.sum(product - self._entropy_term(p), axis=-1)

    def _divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        # the Bregman divergence Σ φ(y) − φ(p) − φ'(p) (y − p), term by term at least 0. With r = f − max f − s as in
        # _by_bisection, φ'(p) = r + 1/α on the support. Off it, what a target there costs besides, −(r + 1/(α−1)) y,
        # makes up the same r + 1/α. So where p is 0, be it off the support or by underflow, r is taken from the scores:
        # the two parts are of size 1/(α−1), and do not cancel where p has underflowed. Elsewhere φ'(p) is taken from p,
        # so that rounding errors of p are of second order
        p = self._predict(scores)
        tiny = jnp.finfo(p.dtype).tiny
        log = jnp.log(jnp.maximum(p, tiny))
        found = jnp.expm1((self.alpha - 1) * log) / (self.alpha - 1)
        # p = [1 + (α−1) r]₊^(1/(α−1)) at the greatest score, where r = −s
        given = scores - jnp.max(scores, axis=-1, keepdims=True) + jnp.max(found, axis=-1, keepdims=True)
        derivative = jnp.where(p >= tiny, found, given) + 1 / self.alpha
        # a class that is ruled out by a score of −inf costs nothing unless the target has it
        linear = jnp.where((p >= tiny) | (targets != 0), derivative * (targets - p), 0)
        total = jnp.sum(jnp.maximum(self._entropy_term(targets) - self._entropy_term(p) - linear, 0), axis=-1)
        return jnp.where(jnp.isfinite(self.value(targets)), total, self.value(targets))

    def _spread(self, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Shares s = p^(2−α) on the support, and Σ s."""
        p = self.predict(scores)
        if self.alpha > 2:
            # p^(α−1) is known up to eps only, unless all are below it: at the border of the support s would overflow
            slope, info = p ** (self.alpha - 1), jnp.finfo(p.dtype)
            least = jnp.clip(jnp.max(slope, axis=-1, keepdims=True), info.tiny, info.eps)
            s = p / jnp.maximum(slope, least)
        else:
            s = jnp.where(p > 0, jnp.where(p > 0, p, 1) ** (2 - self.alpha), 0)
        return s, jnp.sum(s, axis=-1, keepdims=True)

    @one_program
    def hessian_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """(diag s − s sᵀ / Σ s) v."""
        s, total = self._spread(scores)
        return s * (v - jnp.sum(s * v, axis=-1, keepdims=True) / total)

    @one_program
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S = diag √s − s √sᵀ / Σ s."""
        s, total = self._spread(scores)
        return jnp.sqrt(s) * u - s * jnp.sum(jnp.sqrt(s) * u, axis=-1, keepdims=True) / total

    @one_program
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v with S = diag √s − s √sᵀ / Σ s."""
        s, total = self._spread(scores)
        return jnp.sqrt(s) * (v - jnp.sum(s * v, axis=-1, keepdims=True) / total)


def _entmax(scores: jax.Array, alpha: float) -> jax.Array:
    """[(α−1) f − τ]₊^(1/(α−1)) with τ such that the sum is 1."""
    below = scores - jnp.max(scores, axis=-1, keepdims=True)
    # entries more than 1 below the greatest are never in the support; keeping them would overflow and cancel
    z = jnp.maximum((alpha - 1) * below, -2)
    if alpha == 2:
        flat = jax.vmap(optax.projections.projection_simplex)(z.reshape(-1, z.shape[-1]))
        return flat.reshape(z.shape)
    if 2 * alpha == 3:
        return jnp.maximum(z - _threshold_by_sorting(z), 0) ** 2
    return _by_bisection(below, alpha)


def _threshold_by_sorting(z: jax.Array) -> jax.Array:
    """τ with Σ [z − τ]₊² = 1: for the k greatest entries, mean − √((1 − their sum of squared deviations) / k)."""
    sorted_z = -jnp.sort(-z, axis=-1)
    count = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))
    mean = jnp.cumsum(sorted_z, axis=-1) / count
    deviation = jnp.cumsum(sorted_z * sorted_z, axis=-1) - count * mean * mean
    root = jnp.sqrt(jnp.maximum((1 - deviation) / count, 0))
    thresholds = mean - root
    support = jnp.sum(thresholds <= sorted_z, axis=-1, keepdims=True)
    return jnp.take_along_axis(thresholds, jnp.maximum(support - 1, 0), axis=-1)


def _by_bisection(below: jax.Array, alpha: float) -> jax.Array:
    # p = [1 + (α−1)(f − max f − s)]₊^(1/(α−1)) with s between 0 and the Tsallis logarithm of K, (1 − K^(1−α)) / (α−1):
    # unlike for the threshold itself, no digits are lost near α = 1
    low = jnp.zeros_like(below[..., :1])
    high = jnp.full_like(low, -math.expm1((1 - alpha) * math.log(below.shape[-1])) / (alpha - 1))

    def mass(s: jax.Array) -> jax.Array:
        t = jnp.maximum((alpha - 1) * (below - s), -1)
        # XLA's log1p loses about 100 eps between −0.5 and −0.3 in float64
        return jnp.exp(jnp.where(t < -0.25, jnp.log(1 + t), jnp.log1p(t)) / (alpha - 1))

    def body(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        too_much = jnp.sum(mass(middle), axis=-1, keepdims=True) >= 1
        return jnp.where(too_much, middle, low), jnp.where(too_much, high, middle)

    low, high = jax.lax.fori_loop(0, jnp.finfo(below.dtype).nmant + 3, body, (low, high))
    # for α > 2 entries at the border of the support have an infinite slope: between neighbouring s the sum jumps by
    # much more than eps. Interpolation makes the sum 1 and leaves each entry the value for an s inside of the bracket:
    # a prediction for scores that are right to rounding
    most, least = mass(low), mass(high)
    excess, missing = (jnp.sum(p, axis=-1, keepdims=True) - 1 for p in (most, least))
    share = jnp.clip(-missing / jnp.where(excess > missing, excess - missing, 1), 0, 1)
    p = least + share * (most - least)
    return p / jnp.sum(p, axis=-1, keepdims=True)


def tsallis(alpha: float) -> Regularizer:
    """Negative Tsallis entropy on the simplex: prediction α-entmax, exactly 0 for scores far below the greatest.

    Args:
        alpha: α of at least 1. 1 is ``shannon()``, 2 is ``sparsemax()``, 1.5 has an exact solution by sorting; others
            are found by bisection: the prediction for scores that are right to the dtype's rounding.

    Returns:
        The regularizer Ω(p) = Σ (p^α − p) / (α(α−1)); targets are class labels or points of the simplex.

    Raises:
        ValueError: if alpha is below 1 or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.tsallis(1.5).predict(jnp.array([2.0, 0.0, 0.0])).tolist()
        [1.0, 0.0, 0.0]

    References:
        Blondel, Martins, Niculae, Learning with Fenchel-Young losses, JMLR 21 (2020), section 4.3;
        Peters, Niculae, Martins, Sparse sequence-to-sequence models, ACL 2019, algorithms 1 and 2.
    """
    if not 1 <= alpha < float("inf"):
        raise ValueError(f"alpha: expected a finite number of at least 1, got {alpha}; 1 is softmax, 2 sparsemax")
    return shannon() if alpha == 1 else Tsallis(float(alpha))


def sparsemax() -> Regularizer:
    """Half the squared norm on the simplex: the prediction is the Euclidean projection of the scores onto it.

    Returns:
        The regularizer Ω(p) = (|p|² − 1) / 2, which is ``tsallis(2)``; targets are class labels or points of the
        simplex.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.sparsemax().predict(jnp.array([0.5, 0.0, -2.0])).tolist()
        [0.75, 0.25, 0.0]

    References:
        Martins, Astudillo, From softmax to sparsemax, ICML 2016.
    """
    return Tsallis(2.0)
