"""Spectral density over the logarithm of |λ|, either sign apart."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax._pytree import pytree_dataclass
from cljax._quick import quick_jit
from cljax.spectral.estimate import mean_and_error


@pytree_dataclass
class LogDensity:
    """Density of log₁₀|λ| for positive and for negative eigenvalues, smoothed by a Gaussian.

    Both densities, integrated over log₁₀ of the grid, and ``mass_below`` sum to 1, up to the Gaussian's tails outside
    of the grid. Errors are standard errors across probes, NaN for one probe.

    Attributes:
        grid: (g,), values of |λ|, in the operator's units.
        positive: (g,), share of the eigenvalues in a decade at λ = grid.
        positive_error: (g,).
        negative: (g,), share of the eigenvalues in a decade at λ = −grid.
        negative_error: (g,).
        floor: scalar, |λ| below which no eigenvalue is drawn.
        mass_below: scalar, share of the eigenvalues below the floor.
        mass_below_error: scalar.
        sigma: scalar, standard deviation of the Gaussian, in decades.
    """

    grid: jax.Array
    positive: jax.Array
    positive_error: jax.Array
    negative: jax.Array
    negative_error: jax.Array
    floor: jax.Array
    mass_below: jax.Array
    mass_below_error: jax.Array
    sigma: jax.Array


def log_density(
    nodes: jax.Array, weights: jax.Array, grid: jax.Array | None, sigma: float, floor: float | None
) -> LogDensity:
    """See ``SpectralDensity.log_density``.

    Args:
        nodes: (num_probes, m).
        weights: (num_probes, m).
        grid: (g,), positive; None for 400 points from the floor to the greatest |node|.
        sigma: standard deviation of the Gaussian, in decades.
        floor: positive; None for 32 eps times the greatest |node|.

    Returns:
        The density.

    Raises:
        ValueError: if ``sigma``, ``floor`` or a point of the grid is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive width in decades, got {sigma}")
    if floor is not None and not floor > 0:
        raise ValueError(f"floor: expected a positive magnitude in the operator's units, got {floor}")
    if grid is not None and not isinstance(grid, jax.core.Tracer) and not jnp.all(grid > 0):
        raise ValueError(f"grid: expected magnitudes |λ| above 0, got {jnp.min(grid)}; both signs come of one grid")
    return _log_density(nodes, weights, grid, sigma, floor)


@quick_jit
def _log_density(
    nodes: jax.Array, weights: jax.Array, grid: jax.Array | None, sigma: jax.Array, floor: jax.Array | None
) -> LogDensity:
    sizes, info, sigma = jnp.abs(nodes), jnp.finfo(nodes.dtype), jnp.asarray(sigma, nodes.dtype)
    greatest = jnp.maximum(jnp.max(sizes), info.tiny / info.eps)
    least = 32 * info.eps * greatest if floor is None else jnp.asarray(floor, nodes.dtype)
    if grid is None:
        ends = jnp.log10(least) - 4 * sigma, jnp.log10(jnp.maximum(greatest, least)) + 4 * sigma
        grid = 10 ** jnp.linspace(*ends, 400)
    drawn = sizes >= least
    places = jnp.log10(jnp.where(drawn, sizes, greatest))

    def side(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        return mean_and_error(gaussian_mixture(places, weights * (chosen & drawn), jnp.log10(grid), sigma))

    positive, positive_error = side(nodes > 0)
    negative, negative_error = side(nodes < 0)
    below, below_error = mean_and_error(jnp.sum(weights * ~drawn, axis=1))
    return LogDensity(grid, positive, positive_error, negative, negative_error, least, below, below_error, sigma)


@quick_jit
def gaussian_mixture(places: jax.Array, weights: jax.Array, grid: jax.Array, sigma: jax.Array) -> jax.Array:
    """Weighted Gaussians around places.

    Args:
        places: (num_probes, m).
        weights: (num_probes, m).
        grid: (g,), where to evaluate.
        sigma: standard deviation.

    Returns:
        The sum for each probe, (num_probes, g).
    """
    scaled = (grid[None, :, None] - places[:, None, :]) / sigma
    kernel = jnp.exp(-0.5 * scaled**2) / (sigma * np.sqrt(2 * np.pi))
    return jnp.sum(kernel * weights[:, None, :], axis=2)
