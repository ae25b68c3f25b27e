"""What a regularizer Ω offers: the value, the conjugate and the first two derivatives of the conjugate."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cljax.losses.programs import one_program


class Regularizer(abc.ABC):
    """A convex Ω on the last axis of its argument, with its conjugate Ω*(f) = sup_y <f, y> − Ω(y).

    Instances are frozen dataclasses, equal by value and hashable: they may be static arguments of jit. ``scores`` and
    vectors have shape (..., K), results shape (..., K) or (...), in the dtype of the argument. The factor S satisfies
    S Sᵀ = ∇²Ω*(scores); it is (K, L), with L = K for all regularizers of this library.

    Attributes:
        domain: the targets on which Ω is finite, in words.
        on_simplex: whether that is the probability simplex: then predictions and targets have the same sum, and their
            difference is orthogonal to the vector of ones.
    """

    domain: ClassVar[str]
    on_simplex: ClassVar[bool] = False

    @property
    def strong_convexity(self) -> float | None:
        """The m such that Ω is m-strongly convex in the Euclidean norm, whatever K; None where there is none."""
        return None

    @property
    def smoothness(self) -> float | None:
        """The M such that Ω is M-smooth in the Euclidean norm, whatever K; None where there is none."""
        return None

    @abc.abstractmethod
    def value(self, targets: jax.Array) -> jax.Array:
        """Ω(targets): shape (..., K) -> (...); +inf outside the domain."""

    @abc.abstractmethod
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """Ω*(scores): shape (..., K) -> (...)."""

    @abc.abstractmethod
    def predict(self, scores: jax.Array) -> jax.Array:
        """∇Ω*(scores), the prediction in the domain of Ω: shape (..., K) -> (..., K)."""

    @abc.abstractmethod
    def factor_product(self, scores: jax.Array, u: jax.Array) -> jax.Array:
        """S u with S Sᵀ = ∇²Ω*(scores): shapes (..., K), (..., L) -> (..., K)."""

    @abc.abstractmethod
    def factor_transpose_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """Sᵀ v with S Sᵀ = ∇²Ω*(scores): shapes (..., K), (..., K) -> (..., L)."""

    @one_program
    def hessian_product(self, scores: jax.Array, v: jax.Array) -> jax.Array:
        """∇²Ω*(scores) v: shapes (..., K), (..., K) -> (..., K)."""
        return self.factor_product(scores, self.factor_transpose_product(scores, v))

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Fenchel-Young loss Ω(y) + Ω*(f) − <f, y>, written so that it does not cancel: (..., K) twice -> (...)."""
        return self.value(targets) + self.conjugate(scores) - jnp.sum(scores * targets, axis=-1)

    @one_program
    def residual(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """∇Ω*(f) − y, on the simplex with the entry of the greatest score made up of the others: (..., K)."""
        difference = self.predict(scores) - targets
        if not self.on_simplex:
            return difference
        # where a prediction is all but 1, its difference to 1 would be rounding; the others' differences are exact
        top = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=bool)
        rest = jnp.where(top, 0, difference)
        return jnp.where(top, -jnp.sum(rest, axis=-1, keepdims=True), rest)

    @one_program
    def quadratic_coefficient(self, scores: jax.Array) -> jax.Array:
        """A c(f) with d(y, f) ≤ c(f) |∇Ω*(f) − y|² for all y of the domain: (..., K) -> (...); +inf for none."""
        half = jnp.inf if self.smoothness is None else self.smoothness / 2
        return jnp.full(scores.shape[:-1], half, scores.dtype)

    def encode(self, targets: Any, scores: jax.Array) -> jax.Array:
        """Targets as points of the shape and dtype of ``scores``.

        Args:
            targets: soft targets of the shape of ``scores``, those of a dtype coarser than the scores' divided by
                their sum where that is 1 up to their own rounding; or integer class labels of shape
                ``scores.shape[:-1]``, made one-hot; or, where K = 1, values of shape ``scores.shape[:-1]``.
            scores: shape (..., K).

        Returns:
            Shape (..., K); rows whose label is not in 0..K−1 are NaN, so that no wrong label passes for a loss.

        Raises:
            ValueError: if the shape of ``targets`` is neither that of ``scores`` nor that without its last axis.
            TypeError: if class labels are expected, by shape, and ``targets`` are not integers.
        """
        return self._encode(jnp.asarray(targets), scores)

    @one_program
    def _encode(self, targets: jax.Array, scores: jax.Array) -> jax.Array:
        if targets.shape == scores.shape:
            return self._soft(targets, scores.dtype)
        if targets.shape != scores.shape[:-1]:
            raise ValueError(
                f"targets: expected shape {scores.shape} (soft) or {scores.shape[:-1]} (labels), got {targets.shape}"
            )
        num_classes = scores.shape[-1]
        integers = jnp.issubdtype(targets.dtype, jnp.integer)
        if num_classes == 1 and not (self.on_simplex and integers):
            return targets.astype(scores.dtype)[..., None]
        if not integers:
            raise TypeError(
                f"targets: expected integer labels of shape {targets.shape}, got {targets.dtype}; "
                f"cast them to int32, or give soft targets of shape {scores.shape}"
            )
        known = (targets >= 0) & (targets < num_classes)
        return jnp.where(known[..., None], jax.nn.one_hot(targets, num_classes, dtype=scores.dtype), jnp.nan)

    def _soft(self, targets: jax.Array, dtype: Any) -> jax.Array:
        given, targets = targets.dtype, targets.astype(dtype)
        coarse = jnp.issubdtype(given, jnp.floating) and jnp.finfo(given).eps > jnp.finfo(dtype).eps
        if not (self.on_simplex and coarse):
            return targets
        # rounding each entry to the coarser dtype moves the sum by at most half of its eps
        total = jnp.sum(targets, axis=-1, keepdims=True)
        return jnp.where(jnp.abs(total - 1) <= jnp.finfo(given).eps, targets / total, targets)
