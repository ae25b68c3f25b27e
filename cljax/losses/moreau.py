"""Moreau envelopes and proximal maps of a user's own convex function."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cljax._pytree import pytree_dataclass
from cljax.losses.conjugate import ConvexFn, as_single_at_least, conjugate


@pytree_dataclass
class MoreauEnvelope:
    """A Moreau envelope and the proximal map.

    Attributes:
        value: (...), min over y of fn(y) + |x − y|² / (2 step); never below it but for rounding.
        prox: (..., K), the minimizer.
        gap: (...), how far ``value`` may be above the minimum; see ``Conjugate.gap``.
        converged: (...) bool.
    """

    value: jax.Array
    prox: jax.Array
    gap: jax.Array
    converged: jax.Array


@dataclasses.dataclass(frozen=True)
class _Regularized:
    fn: ConvexFn
    step: float

    def __call__(self, y: jax.Array) -> jax.Array:
        return self.fn(y) + jnp.dot(y, y) / (2 * self.step)


def moreau_envelope(fn: ConvexFn, points: jax.Array, step: float = 1.0, **options: Any) -> MoreauEnvelope:
    """Moreau envelope min_y fn(y) + |x − y|² / (2 step), and the proximal map, its minimizer.

    Args:
        fn: as for ``conjugate``.
        points: x, shape (..., K), floating; half precision as for ``conjugate``.
        step: above 0.
        **options: ``domain``, ``start`` and ``tol`` of ``conjugate``.

    Returns:
        The envelope, differentiable in ``points``: its gradient is (x − prox) / step.

    Raises:
        ValueError: if ``step`` is not above 0, or as ``conjugate`` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> found = losses.moreau_envelope(lambda y: jnp.sum(y * y) / 2, jnp.array([2.0]))
        >>> round(found.value.item(), 5), round(found.prox.item(), 5)
        (1.0, 1.0)

    References:
        Parikh, Boyd, Proximal algorithms (2014), section 3.1; here by way of the conjugate of fn + |·|² / (2 step).
    """
    if not step > 0:
        raise ValueError(f"step: expected a number above 0, got {step}")
    points = as_single_at_least(points)
    found = conjugate(_Regularized(fn, float(step)), points / step, **options)
    value = jnp.sum(points * points, axis=-1) / (2 * step) - found.value
    return MoreauEnvelope(value, found.argmax, found.gap, found.converged)


def prox(fn: ConvexFn, points: jax.Array, step: float = 1.0, **options: Any) -> jax.Array:
    """Proximal map: the y that minimizes fn(y) + |x − y|² / (2 step); NaN where it was not found.

    Args:
        fn: as for ``conjugate``.
        points: x, shape (..., K), floating.
        step: above 0.
        **options: ``domain``, ``start`` and ``tol`` of ``conjugate``.

    Returns:
        Shape (..., K); use ``moreau_envelope`` to see how accurate it is.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.prox(lambda y: jnp.sum(y * y) / 2, jnp.array([2.0]), step=3.0).round(5).tolist()
        [0.5]
    """
    found = moreau_envelope(fn, points, step, **options)
    return jnp.where(found.converged[..., None], found.prox, jnp.nan)
