"""The forms that bounds of a loss by s / λ take, one for each kind of loss.

The forms whose names begin with "paper" are as arXiv:2608.09523 prints them. What is wrong with its formulas, by the
names that results carry:

- E1, corollary 5.3 (2), above: s / (4 p_min λ_min) is below the loss of a uniform prediction of two classes, 0.69, at
  0.25; s / (p_min λ_min) holds.
- E2, corollary 5.3 (2), below: s / (8 ln 2 λ_max) holds and is 5.5 times too small; s / λ_max is sharp. Pinsker's
  constant 1 / (2 ln 2) is one for bits.
- E3, proposition 3.5 (3): cross-entropy in the logits is not strongly convex, as it does not change along ones; its
  smoothness is |·|²/4 sharply, for the printed 2 ln 2 |·|².
- E4, corollary 5.3 (3): the constants of ∇²Ω are where their inverses belong; m s / (2 λ_max) and M s / (2 λ_min) hold.
- E5, theorem 4.2 (3) and corollary 4.2 (2): the sign of the term with M; see ``theory.linear_rate_limit``.
"""

import abc
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax._pytree import pytree_dataclass
from cljax._registry import lookup
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.regularizer import Regularizer
from cljax.losses.shannon import Shannon
from cljax.losses.squared import Squared

Bounds = tuple[jax.Array, jax.Array, dict[str, jax.Array]]
"""Lower and upper bounds, and for each assumption whether it held; all (n,)."""


@pytree_dataclass
class Quantities:
    """What bounds are made of, for each of n examples.

    Attributes:
        scores: (n, K), f.
        targets: (n, K), y, or the mean of the example's group.
        loss: (n,), d_Ω(y, f).
        raw_loss: (n,), the same with the example's own target.
        gradient_energy: (n,), s = |Jᵀ r|².
        gradient_norm: (n,), √s, which does not underflow where s does.
        residual_norm: (n,), |r|.
        lambda_min: (n,).
        lambda_max: (n,).
        scale: (n,), trace of A_x, the size of what eigenvalues are computed from.
    """

    scores: jax.Array
    targets: jax.Array
    loss: jax.Array
    raw_loss: jax.Array
    gradient_energy: jax.Array
    gradient_norm: jax.Array
    residual_norm: jax.Array
    lambda_min: jax.Array
    lambda_max: jax.Array
    scale: jax.Array


class Form(abc.ABC):
    """One form of bounds.

    Attributes:
        centered: whether λ are taken on the complement of ones; None where the loss decides.
    """

    centered: ClassVar[bool | None] = None

    @abc.abstractmethod
    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        """Empty, or what the form expects in place of this regularizer and of targets that are one-hot or not."""

    @abc.abstractmethod
    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        """Bounds of the loss from bounds low ≤ |r| ≤ high, where ``high`` may be +inf."""

    def errors(self, regularizer: Regularizer, q: Quantities) -> tuple[jax.Array, jax.Array]:
        """What |r|, and the loss beside its own size, are computed from: (n,) each, to be multiplied by eps."""
        of_residual = _size(q.scores) + _size(regularizer.predict(q.scores)) + _size(q.targets)
        of_loss = jnp.abs(regularizer.value(q.targets)) + jnp.abs(regularizer.conjugate(q.scores))
        return of_residual, of_loss + jnp.sum(jnp.abs(q.scores * q.targets), axis=-1)


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), axis=-1)


class _Quadratic(Form):
    """(m/2) |r|² ≤ d ≤ c(f) |r|²."""

    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        del regularizer, one_hot
        return ""

    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        half = (regularizer.strong_convexity or 0) / 2
        coefficient = regularizer.quadratic_coefficient(q.scores)
        bounded = jnp.isfinite(coefficient)
        convex = jnp.full(q.loss.shape, regularizer.strong_convexity is not None)
        # without strong convexity there is no lower bound but 0; without a coefficient no upper one
        upper = jnp.where(bounded, jnp.where(bounded, coefficient, 0) * high * high, jnp.inf)
        lower = half * low * low if half else jnp.zeros_like(low)  # low may be +inf
        return lower, upper, {"strongly convex": convex, "loss below a multiple of |r|²": bounded}


class _Squared(_Quadratic):
    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        del one_hot
        return "" if isinstance(regularizer, Squared) else "losses.squared()"

    def errors(self, regularizer: Regularizer, q: Quantities) -> tuple[jax.Array, jax.Array]:
        del regularizer
        return _size(q.scores) + _size(q.targets), jnp.zeros_like(q.loss)


class _Softmax(_Quadratic):
    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        del one_hot
        return "" if isinstance(regularizer, Shannon) else "losses.shannon()"

    def errors(self, regularizer: Regularizer, q: Quantities) -> tuple[jax.Array, jax.Array]:
        # the entry of the greatest score is made up of the others, whose probabilities are of relative accuracy
        top = jax.nn.one_hot(jnp.argmax(q.scores, axis=-1), q.scores.shape[-1], dtype=bool)
        predicted = regularizer.predict(q.scores)
        gap = jnp.where(predicted > 0, jnp.max(q.scores, axis=-1, keepdims=True) - q.scores, 0)
        others = jnp.sum(jnp.where(top, 0, predicted * (1 + gap) + q.targets), axis=-1)
        # soft targets have the sum 1 to rounding only
        soft = jnp.any((q.targets > 0) & (q.targets < 1), axis=-1)
        return others, 2 * jnp.abs(regularizer.value(q.targets)) + soft


class _LogSoftmax(_Softmax):
    """|r|² ≤ KL ≤ log(1 + |r|²/p_min): Pearson's χ² bounds the divergence through its logarithm already."""

    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        lower, upper, held = super().bounds(regularizer, q, low, high)
        return lower, jnp.log1p(upper), held


class _OneHot(_LogSoftmax):
    """−log(1 − ρ/√2) ≤ −log p_c ≤ −log(1 − ρ√((K−1)/K)), ρ = |r|."""

    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        return super().fits(regularizer, one_hot) or ("" if one_hot else "one-hot targets")

    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        num = q.scores.shape[-1]
        lower = _minus_log_of_rest(jnp.minimum(low / math.sqrt(2), 1))
        fraction = math.sqrt((num - 1) / num) * high
        upper = jnp.where(fraction < 1, _minus_log_of_rest(jnp.minimum(fraction, 1)), jnp.inf)
        # where |r| may be near the greatest possible, the form for any target says more
        upper = jnp.minimum(upper, super().bounds(regularizer, q, low, high)[1])
        held = {"one-hot target": jnp.max(q.targets, axis=-1) == 1, "|r| bounded below its greatest": fraction < 1}
        return lower, upper, held


def _minus_log_of_rest(t: jax.Array) -> jax.Array:
    """−log(1 − t); XLA's log1p in float64 on CPU is off by 100 eps around −0.4, its log is not."""
    return jnp.where(t < 0.25, -jnp.log1p(-t), -jnp.log(1 - t))


class _PaperSoftmax(_Softmax):
    """s / (8 ln 2 λ_max) and s / (4 p_min λ_min), as printed; the upper one is wrong (E1), the lower loose (E2)."""

    centered: ClassVar[bool | None] = False

    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        least = jnp.exp(jnp.min(jax.nn.log_softmax(q.scores, axis=-1), axis=-1))
        held = {"constants are right, as they are not (E1)": jnp.zeros(q.loss.shape, bool)}
        return low * low / (8 * math.log(2)), high * high / (4 * least), held


class _PaperFenchelYoung(Form):
    """s / (2 m λ_max) and s / (2 M λ_min), as printed, with ∇²Ω between m and M; both are wrong (E4)."""

    centered: ClassVar[bool | None] = False

    def fits(self, regularizer: Regularizer, one_hot: bool) -> str:
        del one_hot
        known = regularizer.strong_convexity is not None and regularizer.smoothness is not None
        return "" if known else "a regularizer with both strong_convexity and smoothness"

    def bounds(self, regularizer: Regularizer, q: Quantities, low: jax.Array, high: jax.Array) -> Bounds:
        m, M = regularizer.strong_convexity or 1, regularizer.smoothness or 1
        held = {"constants are right, as they are not (E4)": jnp.full(q.loss.shape, m == M == 1)}
        return low * low / (2 * m), high * high / (2 * M), held


FORMS: dict[str, Form] = {
    "squared": _Squared(),
    "softmax_one_hot": _OneHot(),
    "softmax_log": _LogSoftmax(),
    "softmax": _Softmax(),
    "fenchel_young": _Quadratic(),
    "paper_softmax": _PaperSoftmax(),
    "paper_fenchel_young": _PaperFenchelYoung(),
}


def choose_form(kind: str, loss: FenchelYoungLoss, one_hot: bool) -> str:
    """The form asked for, or for "auto" the first true one that fits.

    Args:
        kind: a key of ``FORMS``, or "auto".
        loss: the loss.
        one_hot: whether all targets are known to be one-hot.

    Returns:
        A key of ``FORMS``.

    Raises:
        ValueError: if the kind is not known, or not for this loss and these targets.
    """
    if kind == "auto":
        return next(name for name, form in FORMS.items() if not form.fits(loss.regularizer, one_hot))
    form = lookup("kind", FORMS, kind)
    expected = form.fits(loss.regularizer, one_hot)
    if expected:
        raise ValueError(f"kind: {kind!r} expects {expected}, got {loss.regularizer}; use 'auto'")
    return kind
