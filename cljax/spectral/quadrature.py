"""Spectral distribution as Gauss quadrature rules, one for each random probe."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax._checks import check_points, check_positive_int
from cljax._pytree import pytree_dataclass, static
from cljax._quick import quick_jit
from cljax.spectral.across_probes import ProbedSpectrum, band
from cljax.spectral.estimate import mean_and_error
from cljax.spectral.log_density import LogDensity, log_density
from cljax.spectral.spread import mass_below, smoothed, spread_points


@pytree_dataclass
class SpectralDensity(ProbedSpectrum):
    """Quadrature of the spectral density φ(t) = (1/n) Σ δ(t − λᵢ), one rule for each probe.

    The rule of a probe z is the Gauss rule of m nodes for the measure Σ (zᵀvᵢ)²/n δ(t − λᵢ): it has that measure's
    moments up to 2m − 1. Nodes are no eigenvalues; without reorthogonalization one eigenvalue may have several nodes,
    which share its weight.

    Where eigenpairs were known, they are nodes of weight 1/n in each rule, and the rest is the rule of the probe's part
    beside their vectors.

    ``cumulative``, ``density`` and ``eigenvalue_count`` spread the weight of a node that stands for several eigenvalues
    over ``reach``, see ``points``; moments and integrals are those of the nodes, to whose degree they are exact.

    Standard errors are those of the mean over probes. They cover that a probe sees each eigenvalue with a random
    weight. They do not cover

    * what m nodes cannot resolve, the same for all probes: ``cumulative_bounds`` brackets it, and a density is to be
      trusted where σ is above the distance of nodes;
    * isolated eigenvalues: the weight of one alone is (zᵀvᵢ)²/n, near a χ² variable of one degree of freedom over n,
      so that the error of its height is itself rough for few probes, most of all where all probes are small.

    Attributes:
        nodes: (num_probes, m), ascending in each row, in the operator's units.
        weights: (num_probes, m), not negative, each row sums to 1.
        reach: (num_probes, m, 2), distances below and above a node over which each half of its weight is spread; 0 for
            a known pair and for a node that has converged to an eigenvalue.
        num_products: int, products used.
        dimension: int, n.
        reorthogonalized: bool, whether the Lanczos vectors were kept orthogonal.
    """

    nodes: jax.Array
    weights: jax.Array
    reach: jax.Array
    num_products: int = static()
    dimension: int = static()
    reorthogonalized: bool = static(default=True)

    def integral(self, fn: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Estimate of (1/n) trace f(A).

        Args:
            fn: f, elementwise on an array of nodes.

        Returns:
            Mean over probes and its standard error, scalars; the error is NaN for one probe. Exact in expectation for
            polynomials of degree up to 2m − 1.
        """
        return mean_and_error(jnp.sum(self.weights * fn(self.nodes), axis=1))

    def density(self, grid: Any, sigma: float) -> tuple[jax.Array, jax.Array]:
        """φ, each node's weight spread over its reach, convolved with a Gaussian.

        Args:
            grid: (g,), where to evaluate, in the operator's units.
            sigma: standard deviation of the Gaussian, in the same units.

        Returns:
            Mean over probes and its standard error, each (g,), in 1 / units; the error is NaN for one probe.

        Raises:
            ValueError: if ``sigma`` is not positive.
        """
        return mean_and_error(self._density(grid, sigma))

    def density_band(self, grid: Any, sigma: float, level: float = 1.0) -> tuple[jax.Array, jax.Array]:
        """Spread of the probes' densities.

        Args:
            grid: as for ``density``.
            sigma: as for ``density``.
            level: share of the probes inside; 1 is from the least to the greatest.

        Returns:
            Lower and upper end, each (g,), in 1 / units.

        Raises:
            ValueError: if ``sigma`` is not positive or ``level`` not in (0, 1].
        """
        return band(self._density(grid, sigma), level)

    def cumulative_bounds(self, grid: Any) -> tuple[jax.Array, jax.Array]:
        """What the number of nodes leaves open of ``cumulative``: the part of its error that is no standard error.

        For each probe the distribution function of its measure lies, whatever the eigenvalues between the nodes, at
        most one node's weight from the sum of the weights at or below a point. The bounds hold for each probe and are
        averaged; they are exact up to a shift of the points by rounding.

        Args:
            grid: (g,), in the operator's units.

        Returns:
            Means over probes of the lower and of the upper bound, each (g,), between 0 and 1.

        References:
            Szegő, Orthogonal Polynomials, section 3.41 (the Chebyshev-Markov-Stieltjes inequalities).
        """
        grid = self._as_grid(grid)
        low, high = (_mass_of_nodes(self.nodes, self.weights, grid, more) for more in (-1, 1))
        return jnp.mean(low, axis=0), jnp.mean(high, axis=0)

    def points(self, num_points: int = 8) -> tuple[jax.Array, jax.Array]:
        """The spectrum as points: each node's weight in equal parts over its reach.

        A node between eigenvalues stands for all of those near it. Its weight is spread over what lies between it and
        its neighbours, which share a gap in inverse proportion to their weights, and no farther than the residual of
        its Ritz pair, within which there is an eigenvalue. The Wasserstein distance to the spectrum is then no longer
        that of a few points, and a budget is better spent on more probes of fewer steps.

        Args:
            num_points: static, parts of each half of a node.

        Returns:
            Points and weights, each (num_probes, 2 · m · num_points), in no order; each row of weights sums to 1.

        Raises:
            ValueError: if ``num_points`` is below 1.
        """
        num_points = check_positive_int("num_points", num_points)
        return spread_points(self.nodes, self.weights, self.reach, num_points)

    def log_density(self, grid: Any = None, sigma: float = 0.1, floor: float | None = None) -> LogDensity:
        """Density of log₁₀|λ|, positive and negative eigenvalues apart, and the mass below a floor.

        A node stands for the eigenvalues between its neighbours: the place of small eigenvalues on the logarithmic
        axis is known no better than the distance of nodes there.

        Args:
            grid: (g,), values of |λ|, positive, in the operator's units; None for 400 points that cover all nodes
                above the floor.
            sigma: standard deviation of the Gaussian, in decades.
            floor: |λ| below which eigenvalues count into ``mass_below``; None for 32 eps times the greatest |node|,
                below which rounding decides.

        Returns:
            Densities in 1 / decade, with standard errors.

        Raises:
            ValueError: if ``sigma``, ``floor`` or a point of the grid is not positive.
        """
        return log_density(self.nodes, self.weights, None if grid is None else self._as_grid(grid), sigma, floor)

    def default_grid(self, num_points: int = 1000) -> tuple[jax.Array, jax.Array]:
        """A grid and a width that show the whole spectrum.

        Args:
            num_points: g.

        Returns:
            The grid, (g,), over all nodes and five widths more, and σ, a hundredth of the range of the nodes; where
            all nodes are one, σ is 1e-6 of its magnitude.
        """
        low, high = jnp.min(self.nodes), jnp.max(self.nodes)
        greatest = jnp.maximum(jnp.abs(low), jnp.abs(high))
        width = jnp.maximum(high - low, jnp.where(greatest > 0, 1e-4 * greatest, 1))
        sigma = 0.01 * width
        return jnp.linspace(low - 5 * sigma, high + 5 * sigma, num_points), sigma

    def _density(self, grid: Any, sigma: float) -> jax.Array:
        if not isinstance(sigma, jax.core.Tracer) and sigma <= 0:
            raise ValueError(f"sigma: expected a positive width in the operator's units, got {sigma}")
        width = jnp.asarray(sigma, self.nodes.dtype)
        return smoothed(self.nodes, self.weights, self.reach, self._as_grid(grid), width)

    def _moment(self, power: int) -> jax.Array:
        return jnp.sum(self.weights * self.nodes**power, axis=1)

    def _cumulative(self, grid: jax.Array) -> jax.Array:
        return mass_below(self.nodes, self.weights, self.reach, grid)

    def _as_grid(self, grid: Any) -> jax.Array:
        return check_points("grid", jnp.asarray(grid, self.nodes.dtype))


@quick_jit
def _mass_of_nodes(nodes: jax.Array, weights: jax.Array, grid: jax.Array, more: int) -> jax.Array:
    """Mass of the nodes at or below each point, and of ``more`` nodes above: (num_probes, g) from (num_probes, m)."""

    def one(nodes: jax.Array, weights: jax.Array) -> jax.Array:
        mass = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights)])
        count = jnp.searchsorted(nodes, grid, side="right")
        # 0 times the total is NaN where the nodes are
        return mass[jnp.clip(count + more, 0, nodes.shape[0])] + 0 * mass[-1]

    return jax.vmap(one)(nodes, weights)
