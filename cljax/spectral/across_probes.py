"""What several random probes say together: a mean, its standard error, and bands."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from cljax._checks import check_positive_int
from cljax._quick import quick_jit
from cljax.spectral.estimate import Estimate, mean_and_error


def probed_estimate(samples: jax.Array, num_products: int) -> Estimate:
    """An estimate without a tolerance.

    Args:
        samples: (num_probes,).
        num_products: products used.

    Returns:
        Mean and standard error.
    """
    mean, error = mean_and_error(samples)
    products, probes = (jnp.asarray(count, jnp.int32) for count in (num_products, samples.shape[0]))
    return Estimate(mean, error, products, probes, converged=jnp.array(False))


def check_interval(low: Any, high: Any) -> None:
    """Require ends in order, where they can be known.

    Args:
        low: lower end.
        high: upper end.

    Raises:
        ValueError: if ``low`` is not below ``high``.
    """
    traced = isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer)
    if not traced and not low < high:
        raise ValueError(f"low: expected an end below high, got ({low}, {high}]")


def band(samples: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """The central part of the probes, which shows the spread of one probe and not the error of the mean.

    Args:
        samples: (num_probes, ...).
        level: share of the probes inside, in (0, 1]; 1 is from the least to the greatest.

    Returns:
        Lower and upper end, each (...): the quantiles (1 − level)/2 and (1 + level)/2, interpolated between probes.

    Raises:
        ValueError: if ``level`` is not in (0, 1].
    """
    if not 0 < level <= 1:
        raise ValueError(f"level: expected the share of the probes inside of the band, in (0, 1], got {level}")
    low, high = _quantiles(samples, jnp.asarray([(1 - level) / 2, (1 + level) / 2], samples.dtype))
    return low, high


@quick_jit
def _quantiles(samples: jax.Array, shares: jax.Array) -> jax.Array:
    return jnp.quantile(samples, shares, axis=0)


class ProbedSpectrum(abc.ABC):
    """A spectral distribution known through independent random probes.

    Attributes:
        dimension: int, n.
    """

    dimension: int

    @abc.abstractmethod
    def _moment(self, power: int) -> jax.Array:
        """Moment of each probe, (num_probes,)."""

    @abc.abstractmethod
    def _cumulative(self, grid: jax.Array) -> jax.Array:
        """Distribution function of each probe, (num_probes, g)."""

    @abc.abstractmethod
    def _as_grid(self, grid: Any) -> jax.Array:
        """``grid`` as an array in the dtype of the samples."""

    def moments(self, power: int) -> tuple[jax.Array, jax.Array]:
        """Estimate of (1/n) trace Aᵖ, exact in expectation for small p, as the class says.

        Args:
            power: p, static, at least 0.

        Returns:
            Mean over probes and its standard error, scalars; the error is NaN for one probe.

        Raises:
            ValueError: if ``power`` is negative.
            TypeError: if it is no integer.
        """
        check_positive_int("power", power, minimum=0)
        return mean_and_error(self._moment(power))

    def cumulative(self, grid: Any) -> tuple[jax.Array, jax.Array]:
        """Share of the eigenvalues at or below each point.

        Args:
            grid: (g,), in the operator's units.

        Returns:
            Mean over probes and its standard error, each (g,); the error is NaN for one probe.
        """
        return mean_and_error(self._cumulative(self._as_grid(grid)))

    def cumulative_band(self, grid: Any, level: float = 1.0) -> tuple[jax.Array, jax.Array]:
        """Spread of the probes' cumulative distributions.

        Args:
            grid: (g,), in the operator's units.
            level: share of the probes inside; 1 is from the least to the greatest.

        Returns:
            Lower and upper end, each (g,).

        Raises:
            ValueError: if ``level`` is not in (0, 1].
        """
        return band(self._cumulative(self._as_grid(grid)), level)

    def eigenvalue_count(self, low: Any, high: Any) -> tuple[jax.Array, jax.Array]:
        """Number of eigenvalues in the interval (low, high], n times its mass.

        Args:
            low: lower end, in the operator's units; −inf allowed.
            high: upper end, in the operator's units; +inf allowed.

        Returns:
            Mean over probes and its standard error, in eigenvalues; the error is NaN for one probe.

        Raises:
            ValueError: if ``low`` is not below ``high``.
        """
        check_interval(low, high)
        return mean_and_error(self.eigenvalue_count_samples(low, high))

    def eigenvalue_count_samples(self, low: Any, high: Any) -> jax.Array:
        """What ``eigenvalue_count`` is the mean of, (num_probes,)."""
        ends = self._cumulative(self._as_grid([low, high]))
        return self.dimension * (ends[:, 1] - ends[:, 0])
