"""Spectral density by stochastic Lanczos quadrature."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_positive_int
from cljax._in_flight import landed
from cljax._quick import quick_jit
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.differentiable import is_traced
from cljax.spectral.driver import choose_loop
from cljax.spectral.eigenpairs import Eigenpairs, check_start, status_names
from cljax.spectral.gauss_rule import Rule, reaches
from cljax.spectral.quadrature import SpectralDensity
from cljax.spectral.recurrence import probe_keys
from cljax.spectral.rules import probe_rules
from cljax.spectral.search_rule import Known, beside, search


def spectral_density(
    op: LinearOperator,
    key: jax.Array,
    *,
    num_probes: int = 8,
    num_steps: int = 64,
    reorthogonalize: bool = True,
    known: Eigenpairs | None = None,
    search_steps: int = 0,
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
            without are nodes and weights differentiable: with it derivatives are NaN, and those in reverse mode raise.
            Second derivatives are not right, mostly NaN, where a Krylov space is exhausted.
        known: None, or eigenpairs of ``op``, such as the outliers of the spectrum. Each then has its exact weight, 1/n,
            and the probes, normal and orthogonal to their vectors, only what is left: without the noise of random
            weights at eigenvalues of great magnitude. A residual r of a pair leaves about (r / gap)² of its weight
            twice.
        search_steps: products of a run that comes first, whose accurate extreme Ritz pairs are then known: those that
            leave at most 0.01 of their weight twice, up to a third of ``search_steps`` at each end. The run counts as
            one probe more of what is left, unless it gave these pairs more weight than simple eigenvalues have, or is
            inside of jit, vmap or a derivative, which is forward mode alone. Two thirds of all products and one probe
            are a good choice where the spectrum falls fast, a third and two probes where eigenvalues stand out of a
            wide bulk, none and more probes where many are multiple. It keeps ``search_steps`` + 1 vectors, and two
            thirds as many beside the probes.
        driver: "compiled", "host" or ``HostLoop``, or "auto", see ``lanczos``. A checkpoint file keeps the rules of
            finished probes; the run of the probe at hand is beside it, in ``PATH.probeN``, but without
            reorthogonalization, where a probe that was interrupted starts again; that of the search stays beside it,
            in ``PATH.search``.

    Returns:
        Nodes and weights, from which densities, moments and their standard errors follow. NaN in the operator gives
        NaN nodes.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1, ``known`` is of another space or not
            accurate, both ``known`` and ``search_steps`` are given, the driver cannot run here, or a checkpoint file
            is broken or that of another run.
        TypeError: if ``key`` is no typed key, or ``known`` no Eigenpairs.

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
    chosen = choose_loop(driver, op, key)
    keys = probe_keys(key, num_probes)
    search_steps = min(check_positive_int("search_steps", search_steps, minimum=0), dimension - 1)
    found = None
    if search_steps:
        if known is not None:
            raise ValueError("search_steps: expected 0 beside known pairs; leave one of them out")
        found = search(chosen, op, probe_keys(jax.random.fold_in(key, 1), 1)[0], search_steps)
    elif known is not None:
        check_known(known, op)
        vectors = tree.place_like(known.vectors, op.struct, 1)
        found = Known(known.values, vectors, jnp.ones_like(known.accurate))
    if found is None:
        rules = probe_rules(chosen, op, keys, num_steps, bool(reorthogonalize))
        nodes, weights, reach = rules.nodes, rules.weights, reaches(rules)
    else:
        num_steps = min(num_steps, dimension - found.values.shape[0])
        rules = probe_rules(chosen, op, keys, num_steps, bool(reorthogonalize), found.vectors)
        rules = rules if found.rule is None else beside(rules, found.rule)
        nodes, weights, reach = _with_known(rules, found.values, found.counted, dimension)
    num_products = num_probes * num_steps + search_steps
    return landed(SpectralDensity(nodes, weights, reach, num_products, dimension, bool(reorthogonalize)))


def check_known(known: Any, op: LinearOperator) -> None:
    """Require eigenpairs of an operator, fewer than its dimension.

    Args:
        known: what the caller gave.
        op: the operator.

    Raises:
        TypeError: if it is no ``Eigenpairs``.
        ValueError: if its vectors are of another space, are all of it, or not eigenvectors to its tolerance.
    """
    check_start(known, op.struct, "known")
    if known.values.shape[0] >= tree.size(op.struct):
        raise ValueError(
            f"known: expected fewer pairs than the dimension {tree.size(op.struct)}, got as many; leave it out"
        )
    if not is_traced(known.status) and not bool(known.accurate.all()):
        names = sorted(set(status_names(known.status)))
        raise ValueError(f"known: expected accurate pairs, got the status {names}; allow more max_products")


@quick_jit(static_argnames="dimension")
def _with_known(
    rules: Rule, values: jax.Array, counted: jax.Array, dimension: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nodes, weights and reach with eigenvalues of weight 1/n, or 0, beside the nodes, in ascending order."""
    share = jnp.where(counted, 1 / dimension, 0).astype(rules.weights.dtype)

    def one(rule: Rule, reach: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        nodes = jnp.concatenate([rule.nodes, values.astype(rule.nodes.dtype)])
        weights = jnp.concatenate([rule.weights * (1 - jnp.sum(share)), share])
        order = jnp.argsort(nodes)
        return nodes[order], weights[order], jnp.pad(reach, [(0, len(values)), (0, 0)])[order]

    return jax.vmap(one)(rules, reaches(rules))
