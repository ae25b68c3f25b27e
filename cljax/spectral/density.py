"""Spectral density by stochastic Lanczos quadrature."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._checks import check_key, check_positive_int
from cljax._pytree import pytree_dataclass, static
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.driver import choose_driver, run_lanczos
from cljax.spectral.krylov import KrylovState, tridiagonal_eigh


@pytree_dataclass
class SpectralDensity:
    """Quadrature of the spectral density φ(t) = (1/n) Σ δ(t − λᵢ), one rule for each probe.

    Attributes:
        nodes: (num_probes, m), ascending in each row, in the operator's units.
        weights: (num_probes, m), not negative, each row sums to 1.
        num_products: int, products used.
        dimension: int, n.
    """

    nodes: jax.Array
    weights: jax.Array
    num_products: int = static()
    dimension: int = static()

    def moments(self, power: int) -> tuple[jax.Array, jax.Array]:
        """Estimate of (1/n) trace Aᵖ, exact in expectation for p ≤ 2m − 1.

        Args:
            power: p.

        Returns:
            Mean over probes and its standard error, scalars; the error is NaN for one probe.
        """
        return _mean_and_error(jnp.sum(self.weights * self.nodes**power, axis=1))

    def density(self, grid: Any, sigma: float) -> tuple[jax.Array, jax.Array]:
        """φ convolved with a Gaussian.

        Args:
            grid: (g,), where to evaluate, in the operator's units.
            sigma: standard deviation of the Gaussian, in the same units.

        Returns:
            Mean over probes and its standard error, each (g,), in 1 / units; the error is NaN for one probe.

        Raises:
            ValueError: if ``sigma`` is not positive.
        """
        if not sigma > 0:
            raise ValueError(f"sigma: expected a positive width in the operator's units, got {sigma}")
        grid = jnp.asarray(grid, self.nodes.dtype)
        scaled = (grid[None, :, None] - self.nodes[:, None, :]) / sigma
        kernel = jnp.exp(-0.5 * scaled**2) / (sigma * np.sqrt(2 * np.pi))
        return _mean_and_error(jnp.sum(kernel * self.weights[:, None, :], axis=2))


def _mean_and_error(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    num = samples.shape[0]
    mean = jnp.mean(samples, axis=0)
    if num == 1:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.std(samples, axis=0, ddof=1) / np.sqrt(num)


def spectral_density(
    op: LinearOperator, key: jax.Array, *, num_probes: int = 8, num_steps: int = 64, driver: str = "auto"
) -> SpectralDensity:
    """Spectral density of a symmetric operator by stochastic Lanczos quadrature.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        num_probes: independent Rademacher probes; the standard error falls with their square root.
        num_steps: products for each probe; above n counts as n.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        Nodes and weights, from which densities, moments and their standard errors follow. NaN in the operator gives
        NaN nodes.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1 or the driver cannot run here.
        TypeError: if ``key`` is no typed key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> density = spectral.spectral_density(op, jax.random.key(0), num_probes=2)
        >>> density.moments(1)[0].round(3).item()
        2.0

    References:
        Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 38 (2017),
        algorithm 1.
    """
    check_symmetric("op", op)
    num_probes = check_positive_int("num_probes", num_probes)
    dimension = tree.size(op.struct)
    num_steps = min(check_positive_int("num_steps", num_steps), dimension)
    check_key("key", key)
    chosen = choose_driver(driver, op, key)
    keys = jax.random.split(key, num_probes)
    if chosen == "compiled":
        nodes, weights = _rules_compiled(op, keys, num_steps)
    else:
        rules = [_rule(_run(chosen, op, k, num_steps), num_steps) for k in keys]
        nodes, weights = (jnp.stack(x) for x in zip(*rules, strict=True))
    return SpectralDensity(nodes, weights, num_probes * num_steps, dimension)


@partial(jax.jit, static_argnames="num_steps")
def _rules_compiled(op: LinearOperator, keys: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.map(lambda key: _rule(_run("compiled", op, key, num_steps), num_steps), keys)


def _run(driver: str, op: LinearOperator, key: jax.Array, num_steps: int) -> KrylovState:
    probe_key, run_key = jax.random.split(key)
    like = jax.eval_shape(tree.to_work, op.struct)
    return run_lanczos(driver, op, tree.random_like(probe_key, like, "rademacher"), run_key, num_steps)


@partial(jax.jit, static_argnames="num_steps")
def _rule(state: KrylovState, num_steps: int) -> tuple[jax.Array, jax.Array]:
    values, vectors, _ = tridiagonal_eigh(state)
    return values[:num_steps], vectors[0, :num_steps] ** 2
