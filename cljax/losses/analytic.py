"""Regularizers whose derivatives are given by formulas, where differentiating the program would fail or mislead."""

import abc
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax.losses.programs import one_program
from cljax.losses.regularizer import Regularizer


class AnalyticRegularizer(Regularizer):
    """Derivatives by formula: that of Ω* is the prediction, that of the prediction is ``hessian_product``.

    A sorting or bracketing program has derivatives too, but not at ties, and not always those of its solution.
    """

    @abc.abstractmethod
    def _conjugate(self, scores: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _predict(self, scores: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array: ...

    @one_program
    def conjugate(self, scores: jax.Array) -> jax.Array:
        """Ω*(scores): shape (..., K) -> (...)."""
        return _conjugate(self, scores)

    @one_program
    def predict(self, scores: jax.Array) -> jax.Array:
        """∇Ω*(scores): shape (..., K) -> (..., K)."""
        return _predict(self, scores)

    @one_program
    def divergence(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Ω(y) + Ω*(f) − <f, y>, not below 0: (..., K) twice -> (...)."""
        return _divergence(self, scores, targets)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _conjugate(regularizer: Any, scores: jax.Array) -> jax.Array:
    return regularizer._conjugate(scores)


@_conjugate.defjvp
def _conjugate_jvp(regularizer: Any, primals: Any, tangents: Any) -> Any:
    (scores,), (direction,) = primals, tangents
    slope = jnp.sum(_predict(regularizer, scores) * direction, axis=-1)
    return _conjugate(regularizer, scores), slope


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _predict(regularizer: Any, scores: jax.Array) -> jax.Array:
    return regularizer._predict(scores)


@_predict.defjvp
def _predict_jvp(regularizer: Any, primals: Any, tangents: Any) -> Any:
    (scores,), (direction,) = primals, tangents
    return _predict(regularizer, scores), regularizer.hessian_product(scores, direction)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _divergence(regularizer: Any, scores: jax.Array, targets: jax.Array) -> jax.Array:
    return regularizer._divergence(scores, targets)


@_divergence.defjvp
def _divergence_jvp(regularizer: Any, primals: Any, tangents: Any) -> Any:
    (scores, targets), (score_direction, target_direction) = primals, tangents
    residual = _predict(regularizer, scores) - targets
    value_slope = jax.jvp(regularizer.value, (targets,), (target_direction,))[1]
    slope = jnp.sum(residual * score_direction - scores * target_direction, axis=-1) + value_slope
    return _divergence(regularizer, scores, targets), slope
