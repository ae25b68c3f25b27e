"""Frobenius norm of an operator by random probes, with its standard error."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import choose_driver
from cljax.spectral.estimate import Estimate, mean_and_error
from cljax.spectral.rounds import Scheme, check_arguments, first_probe, run_rounds
from cljax.spectral.samples import SampleState, sample_start, take_norm


def frobenius_norm(
    op: LinearOperator,
    key: jax.Array,
    *,
    tol: float | None = None,
    max_products: int = 100,
    min_probes: int = 10,
    driver: Any = "auto",
) -> Estimate:
    """Frobenius norm ‖A‖_F = (Σ λᵢ²)^½ of a symmetric operator, from the mean of ‖A z‖² over random signs z.

    The mean square is unbiased; its root is too small by about standard_error² / 2‖A‖_F. The standard error is that of
    the mean square over twice the root (delta method). Memory is a few vectors.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        tol: None to use all products, or the standard error, relative to the estimate, at which to stop.
        max_products: static, most products, one for each probe.
        min_probes: static, probes before the first look at the standard error, at least 2.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        The norm and its standard error, in the operator's units, and whether the tolerance was met. NaN in the
        operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is out of range, or the driver cannot run here.
        TypeError: if ``key`` is no typed key or a number is no int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([3.0, 4.0]))
        >>> spectral.frobenius_norm(op, jax.random.key(0)).mean.round(3).item()
        5.0

    References:
        Hutchinson, A stochastic estimator of the trace of the influence matrix, Communications in Statistics 19
        (1990), applied to A².
    """
    max_products, min_probes = check_arguments(op, key, tol, max_products, min_probes)
    probe_key = jax.random.split(key, 1)[0]
    start = sample_start(first_probe(op, probe_key, "rademacher"), probe_key, max_products)
    return run_rounds(choose_driver(driver, op, key), op, start, _FROBENIUS, tol, max_products, min_probes)[1]


def _root_mean_square(state: SampleState) -> tuple[jax.Array, jax.Array]:
    greatest = jnp.max(state.samples)
    unit = jnp.where(greatest == 0, 1, greatest)
    mean, error = mean_and_error((state.samples / unit) ** 2, state.count)
    root = jnp.sqrt(mean)
    return unit * root, unit * error / (2 * jnp.where(root == 0, 1, root))


_FROBENIUS = Scheme((take_norm,), _root_mean_square)
