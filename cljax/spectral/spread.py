"""Distributions made of nodes whose weight is spread evenly over some distance on each side."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax._quick import quick_jit

NARROW = 0.2
"""Reach, in units of σ, below which half of a node is drawn as a Gaussian of its mean and variance.

The kurtosis of what is spread then counts 1e-6; above, the difference of two error functions has as many digits.
"""


@quick_jit
def mass_below(nodes: jax.Array, weights: jax.Array, reach: jax.Array, grid: jax.Array) -> jax.Array:
    """Mass at or below each point.

    Args:
        nodes: (num_probes, m).
        weights: (num_probes, m).
        reach: (num_probes, m, 2), distances below and above a node over which each half of its weight is spread.
        grid: (g,).

    Returns:
        (num_probes, g).
    """
    past = grid[None, :, None] - nodes[:, None]
    below, above = (jnp.broadcast_to(reach[:, None, :, side], past.shape) for side in (0, 1))

    def half(past: jax.Array, reach: jax.Array) -> jax.Array:
        wide = reach > 0
        part = jnp.clip(past / jnp.where(wide, reach, 1), 0, 1)
        return jnp.where(wide, part, (past >= 0).astype(part.dtype))

    # 0 times the distance is NaN where a node or a reach is
    share = (half(past + below, below) + half(past, above)) / 2 + 0 * jnp.where(jnp.isinf(past), 0, past + below)
    return jnp.sum(share * weights[:, None], axis=2)


@quick_jit
def smoothed(nodes: jax.Array, weights: jax.Array, reach: jax.Array, grid: jax.Array, sigma: jax.Array) -> jax.Array:
    """Density convolved with a Gaussian.

    Args:
        nodes: as for ``mass_below``.
        weights: as for ``mass_below``.
        reach: as for ``mass_below``.
        grid: (g,).
        sigma: standard deviation.

    Returns:
        (num_probes, g).
    """
    past = (grid[None, :, None] - nodes[:, None]) / sigma

    def half(past: jax.Array, width: jax.Array) -> jax.Array:
        """Of a half whose ends are ``past`` and ``past + width`` of the standard normal distribution."""
        wide = width > NARROW
        spread = jnp.where(wide, width, 1)
        even = (jax.scipy.special.ndtr(past + spread) - jax.scipy.special.ndtr(past)) / spread
        narrow = jnp.where(wide, 0, width)
        variance = 1 + narrow**2 / 12
        point = jnp.exp(-0.5 * (past + narrow / 2) ** 2 / variance) / jnp.sqrt(2 * np.pi * variance)
        return jnp.where(wide, even, point)

    below, above = (jnp.broadcast_to(reach[:, None, :, side] / sigma, past.shape) for side in (0, 1))
    kernel = (half(past, below) + half(past - above, above)) / (2 * sigma)
    return jnp.sum(kernel * weights[:, None], axis=2)


def spread_points(
    nodes: jax.Array, weights: jax.Array, reach: jax.Array, num_points: int
) -> tuple[jax.Array, jax.Array]:
    """Points of equal weight in the place of each node.

    Args:
        nodes: as for ``mass_below``.
        weights: as for ``mass_below``.
        reach: as for ``mass_below``.
        num_points: static, on each side of a node.

    Returns:
        Points and weights, each (num_probes, 2 · m · num_points), in no order.
    """
    places = (jnp.arange(num_points, dtype=nodes.dtype)[None, None] + 0.5) / num_points
    below = nodes[..., None] - reach[..., :1] * places
    above = nodes[..., None] + reach[..., 1:] * places
    points = jnp.concatenate([below, above], axis=-1)
    shares = jnp.broadcast_to(weights[..., None] / (2 * num_points), points.shape)
    rows = nodes.shape[0]
    return points.reshape(rows, -1), shares.reshape(rows, -1)
