"""Bounds of a spectrum from a few Lanczos steps."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._quick import quick_jit
from cljax.curvature.base import LinearOperator
from cljax.spectral.recurrence import each_probe
from cljax.spectral.three_term import three_term_run, tridiagonal_pairs

MARGIN = 0.02


def spectrum_bounds(driver: Any, op: LinearOperator, key: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """An interval that holds the spectrum, likely and not for certain.

    The extreme Ritz values from a random start, moved outwards by the norms of their residuals and by a margin of
    ``MARGIN`` of the range, at least √eps of the greatest magnitude, eps being that of the coarsest dtype of the
    operator's vectors.

    Args:
        driver: "compiled" or a host loop.
        op: symmetric operator.
        key: typed PRNG key.
        num_steps: products.

    Returns:
        Lower and upper bound, scalars in the operator's units; not equal. NaN in the operator gives NaN.

    References:
        Zhou, Saad, Tiago and Chelikowsky, Self-consistent-field calculations using Chebyshev-filtered subspace
        iteration, J. Comput. Phys. 219 (2006), algorithm 4.4; there without margin.
    """
    num_steps = min(num_steps, tree.size(op.struct))
    alphas, betas = each_probe(driver, op, key, 1, three_term_run, num_steps)
    return _bounds(alphas[0], betas[0], tree.coarsest_eps(op.struct))


@quick_jit
def _bounds(alphas: jax.Array, betas: jax.Array, eps: Any) -> tuple[jax.Array, jax.Array]:
    values, vectors = tridiagonal_pairs(alphas, betas)
    left = jnp.abs(betas[-1] * vectors[-1])
    low, high = values[0] - left[0], values[-1] + left[-1]
    greatest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    margin = jnp.maximum(MARGIN * (high - low), jnp.sqrt(jnp.asarray(eps, low.dtype)) * greatest)
    margin = jnp.where(margin == 0, 1, margin)
    return low - margin, high + margin
