"""Number of eigenvalues in an interval by stochastic Lanczos quadrature."""

from typing import Any

import jax

from cljax.curvature.base import LinearOperator
from cljax.spectral.across_probes import check_interval, probed_estimate
from cljax.spectral.density import spectral_density
from cljax.spectral.estimate import Estimate


def eigenvalue_count(
    op: LinearOperator,
    key: jax.Array,
    low: jax.Array | float,
    high: jax.Array | float,
    *,
    num_probes: int = 16,
    num_steps: int = 64,
    reorthogonalize: bool = True,
    driver: Any = "auto",
) -> Estimate:
    """Number of eigenvalues in (low, high].

    The standard error covers the random probes. That few nodes blur the ends of the interval does not show in it:
    ``SpectralDensity.cumulative_bounds`` times n says by how much, and an end in a gap of the spectrum is not blurred.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        low: lower end, in the operator's units; −inf allowed.
        high: upper end, in the operator's units; +inf allowed.
        num_probes: independent Rademacher probes; the standard error falls with their square root.
        num_steps: products for each probe; above n counts as n.
        reorthogonalize: as for ``spectral_density``; without, memory does not grow with ``num_steps``, and only then
            are there derivatives: with it they are NaN.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        The estimate, in eigenvalues, ``converged`` False as there is no tolerance. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1, ``low`` is not below ``high`` or the
            driver cannot run here.
        TypeError: if ``key`` is no typed key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(4), jnp.array([1.0, 3.0, 3.0, -2.0]))
        >>> found = spectral.eigenvalue_count(op, jax.random.key(0), 2.0, float("inf"))
        >>> round(float(found.mean))
        2

    References:
        Di Napoli, Polizzi and Saad, Efficient estimation of eigenvalue counts in an interval, Numer. Linear Algebra
        Appl. 23 (2016), section 3.
    """
    check_interval(low, high)
    found = spectral_density(
        op, key, num_probes=num_probes, num_steps=num_steps, reorthogonalize=reorthogonalize, driver=driver
    )
    return probed_estimate(found.eigenvalue_count_samples(low, high), found.num_products)
