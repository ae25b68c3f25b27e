"""Spectral distribution as damped Chebyshev series, one for each random probe."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._checks import check_points, check_positive_int
from cljax._pytree import pytree_dataclass, static
from cljax._quick import quick_jit
from cljax.spectral.across_probes import ProbedSpectrum, band
from cljax.spectral.estimate import mean_and_error

_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class ChebyshevDensity(ProbedSpectrum):
    """Chebyshev moments of the spectral density φ(t) = (1/n) Σ δ(t − λᵢ), one row for each probe.

    Density and distribution function are those of φ convolved with Jackson's kernel, which is positive and near a
    Gaussian of width ``resolution`` in the middle of the interval, narrower towards its ends. Standard errors are those
    of the mean over probes; they do not cover that broadening.

    Attributes:
        chebyshev_moments: (num_probes, degree + 1), zᵀ T_k(B) z / n with B = (2 A − high − low) / (high − low),
            undamped; NaN where the bounds did not hold.
        low: scalar, lower bound of the spectrum, in the operator's units.
        high: scalar, upper bound of the spectrum.
        bounds_held: bool scalar, False where the moments can be of no density between the bounds: some eigenvalue is
            outside, or NaN. True where nothing shows, which is no proof: an eigenvalue so little outside, or of so
            little weight in the probes, that it shows nowhere also changes little. The rounding allowed for is that of
            the operator's vectors. Where they are finer than what computes the product, as float32 parameters of a
            model that computes in bfloat16, its rounding may show as a density below 0: False though the bounds hold,
            unless bounds are given farther out or the degree is less.
        num_products: int, products used, those for the bounds included.
        dimension: int, n.
    """

    chebyshev_moments: jax.Array
    low: jax.Array
    high: jax.Array
    bounds_held: jax.Array
    num_products: int = static()
    dimension: int = static()

    @property
    def degree(self) -> int:
        """Degree of the series."""
        return self.chebyshev_moments.shape[1] - 1

    @property
    def resolution(self) -> jax.Array:
        """Standard deviation of the kernel in the middle of the interval, in the operator's units."""
        return np.pi / (self.degree + 1) * (self.high / 2 - self.low / 2)

    def moments(self, power: int) -> tuple[jax.Array, jax.Array]:
        """Estimate of (1/n) trace Aᵖ, not damped, exact in expectation.

        Args:
            power: p, at most the degree.

        Returns:
            Mean over probes and its standard error, scalars; the error is NaN for one probe.

        Raises:
            ValueError: if ``power`` is negative or above the degree.
        """
        if check_positive_int("power", power, minimum=0) > self.degree:
            raise ValueError(f"power: expected at most the degree, {self.degree}, got {power}; raise the degree")
        return mean_and_error(self._moment(power))

    def density(self, grid: Any) -> tuple[jax.Array, jax.Array]:
        """φ convolved with Jackson's kernel; 0 outside of the bounds.

        Args:
            grid: (g,), where to evaluate, in the operator's units.

        Returns:
            Mean over probes and its standard error, each (g,), in 1 / units; the error is NaN for one probe.
        """
        return mean_and_error(self._density(self._as_grid(grid)))

    def density_band(self, grid: Any, level: float = 1.0) -> tuple[jax.Array, jax.Array]:
        """Spread of the probes' densities.

        Args:
            grid: as for ``density``.
            level: share of the probes inside; 1 is from the least to the greatest.

        Returns:
            Lower and upper end, each (g,), in 1 / units.

        Raises:
            ValueError: if ``level`` is not in (0, 1].
        """
        return band(self._density(self._as_grid(grid)), level)

    def default_grid(self, num_points: int = 1000) -> jax.Array:
        """Points between the bounds, (num_points,), dense at the ends as the kernel is narrow there."""
        angles = np.pi * (jnp.arange(num_points, dtype=self.low.dtype) + 0.5) / num_points
        return (self.low / 2 + self.high / 2) - (self.high / 2 - self.low / 2) * jnp.cos(angles)

    def _moment(self, power: int) -> jax.Array:
        # Gauss-Chebyshev quadrature with degree + 1 points is exact up to degree 2 · degree + 1
        num = self.degree + 1
        angles = np.pi * (np.arange(num) + 0.5) / num
        points = (self.low / 2 + self.high / 2) + (self.high / 2 - self.low / 2) * jnp.asarray(
            np.cos(angles), self.low.dtype
        )
        series = _series(self.chebyshev_moments, _cosines(jnp.asarray(angles, self.low.dtype), num))
        return jnp.mean(series * points[None] ** power, axis=1)

    @quick_jit
    def _density(self, grid: jax.Array) -> jax.Array:
        place = self._mapped(grid)
        inside = jnp.abs(place) < 1
        place = jnp.where(inside, place, 0)
        damped = self.chebyshev_moments * _jackson(self.chebyshev_moments)
        series = _series(damped, _cosines(jnp.arccos(place), self.degree + 1))
        scale = np.pi * (self.high / 2 - self.low / 2) * jnp.sqrt((1 - place) * (1 + place))
        # 0 times the total is NaN where the moments are
        return jnp.where(inside[None], series / scale[None], 0 * damped[:, :1])

    @quick_jit
    def _cumulative(self, grid: jax.Array) -> jax.Array:
        angles = jnp.arccos(jnp.clip(self._mapped(grid), -1, 1))
        damped = self.chebyshev_moments * _jackson(self.chebyshev_moments)
        orders = np.arange(1, self.degree + 1)
        sines = jnp.sin(angles[:, None] * orders[None]) / orders[None]
        oscillating = 2 * jnp.matmul(damped[:, 1:], sines.T, precision=_HIGHEST)
        return (1 - angles[None] / np.pi) * damped[:, :1] - oscillating / np.pi

    def _mapped(self, grid: jax.Array) -> jax.Array:
        return (grid - (self.low / 2 + self.high / 2)) / (self.high / 2 - self.low / 2)

    def _as_grid(self, grid: Any) -> jax.Array:
        return check_points("grid", jnp.asarray(grid, self.chebyshev_moments.dtype))


def jackson(degree: int) -> np.ndarray:
    """Damping factors of Jackson's kernel, (degree + 1,), from 1 down to near 0; see ``chebyshev_density``."""
    num = degree + 1
    orders, unit = np.arange(num), np.pi / (num + 1)
    damping = (num - orders + 1) * np.cos(unit * orders) + np.sin(unit * orders) / np.tan(unit)
    return damping / (num + 1)


@quick_jit
def moments_are_of_a_density(moments: jax.Array, low: jax.Array, high: jax.Array, eps: Any = 0.0) -> jax.Array:
    """Whether the moments can be those of positive densities on the interval, up to rounding.

    Two necessary conditions: no moment is above 1 in magnitude, and no damped density is negative.

    Args:
        moments: (num_probes, degree + 1), Chebyshev moments.
        low: lower end of the interval.
        high: upper end of the interval.
        eps: relative rounding of the products, where it is coarser than that of the moments' dtype.

    Returns:
        A bool scalar; False where a moment is NaN.
    """
    num = moments.shape[1]
    half_width = high / 2 - low / 2
    amplified = jnp.maximum(jnp.abs(low), jnp.abs(high)) / half_width
    rounding = 8 * jnp.finfo(moments.dtype).eps * num * (1 + amplified)
    # of products in half precision, which differs from step to step, the moments take no more than the square root of
    # their number: 0.4 eps √num (1 + amplified) and in the density 0.5 eps num (1 + amplified), as measured
    products = 2 * jnp.asarray(eps, moments.dtype) * np.sqrt(num) * (1 + amplified)
    below = jnp.maximum(rounding * num, products * np.sqrt(num))
    angles = jnp.asarray(np.pi * (np.arange(2 * num) + 0.5) / (2 * num), moments.dtype)
    densities = _series(moments * _jackson(moments), _cosines(angles, num))
    return jnp.all(jnp.abs(moments) <= 1 + jnp.maximum(rounding, products)) & jnp.all(densities >= -below)


def _jackson(moments: jax.Array) -> jax.Array:
    return jnp.asarray(jackson(moments.shape[1] - 1), moments.dtype)[None]


def _cosines(angles: jax.Array, num: int) -> jax.Array:
    return jnp.cos(angles[:, None] * np.arange(num)[None])


def _series(moments: jax.Array, cosines: jax.Array) -> jax.Array:
    """μ₀ + 2 Σ μ_k cos kθ, (num_probes, g)."""
    return 2 * jnp.matmul(moments, cosines.T, precision=_HIGHEST) - moments[:, :1]
