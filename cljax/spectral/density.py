"""Spectral density by stochastic Lanczos quadrature."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_positive_int
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.driver import choose_driver, run_lanczos
from cljax.spectral.krylov import KrylovState
from cljax.spectral.quadrature import SpectralDensity
from cljax.spectral.recurrence import each_probe, probe_keys, unit_probe
from cljax.spectral.ritz import projected_eigh
from cljax.spectral.three_term import three_term_run, tridiagonal_pairs


def spectral_density(
    op: LinearOperator,
    key: jax.Array,
    *,
    num_probes: int = 8,
    num_steps: int = 64,
    reorthogonalize: bool = True,
    driver: Any = "auto",
) -> SpectralDensity:
    """Spectral density of a symmetric operator by stochastic Lanczos quadrature.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        num_probes: independent Rademacher probes; the standard error falls with their square root.
        num_steps: products for each probe; above n counts as n.
        reorthogonalize: keep ``num_steps`` + 1 vectors and orthogonalize against them. Without, the three-term
            recurrence keeps two beside the product, whatever the number of steps: one eigenvalue may then have
            several nodes, which share its weight, and densities, moments and counts keep their value. Only
            without are nodes and weights differentiable: with it derivatives are NaN.
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
        algorithm 1. Without reorthogonalization: Chen, Trogdon and Ubaru, Analysis of stochastic Lanczos quadrature
        for spectrum approximation, ICML 2021.
    """
    check_symmetric("op", op)
    num_probes = check_positive_int("num_probes", num_probes)
    dimension = tree.size(op.struct)
    num_steps = min(check_positive_int("num_steps", num_steps), dimension)
    check_key("key", key)
    chosen = choose_driver(driver, op, key)
    if not reorthogonalize:
        nodes, weights = _rules(*each_probe(chosen, op, key, num_probes, three_term_run, num_steps))
    elif chosen == "compiled":
        nodes, weights = _rules_compiled(op, probe_keys(key, num_probes), num_steps)
    else:
        rules = [_rule(_run(chosen, op, keys, num_steps), num_steps) for keys in probe_keys(key, num_probes)]
        nodes, weights = (jnp.stack(x) for x in zip(*rules, strict=True))
    return SpectralDensity(nodes, weights, num_probes * num_steps, dimension, bool(reorthogonalize))


@jax.jit
def _rules(alphas: jax.Array, betas: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jax.vmap(tridiagonal_pairs)(alphas, betas)
    return values, vectors[:, 0] ** 2


@partial(jax.jit, static_argnames="num_steps")
def _rules_compiled(op: LinearOperator, keys: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.map(lambda pair: _rule(_run("compiled", op, pair, num_steps), num_steps), keys)


def _run(driver: Any, op: LinearOperator, keys: jax.Array, num_steps: int) -> KrylovState:
    return run_lanczos(driver, op, unit_probe(keys[0], op.struct), keys[1], num_steps)


@partial(jax.jit, static_argnames="num_steps")
def _rule(state: KrylovState, num_steps: int) -> tuple[jax.Array, jax.Array]:
    values, vectors, _ = projected_eigh(state)
    return values[:num_steps], vectors[0, :num_steps] ** 2
