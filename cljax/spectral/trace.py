"""Trace of an operator by random probes, with its standard error.

matfree estimates traces well for flat vectors that are whole on each device, and operators of this library run in it.
What is written here keeps the structure and the sharding of the parameters, holds one basis where XTrace as published
holds three, stops by itself once the standard error is small enough, and runs compiled or stepped from the host.
"""

import dataclasses
from functools import partial
from typing import Any

import jax

from cljax import tree
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import choose_driver
from cljax.spectral.estimate import Estimate
from cljax.spectral.rounds import Scheme, check_arguments, first_probe, run_rounds
from cljax.spectral.samples import quadratic_form_functional, sample_mean, sample_start, take_quadratic_form
from cljax.spectral.xtrace import compress, extend_basis, xtrace_functional, xtrace_mean, xtrace_start

METHODS = ("auto", "hutchinson", "xtrace")
LARGEST_BASIS = 2**30
_HUTCHINSON = Scheme((take_quadratic_form,), sample_mean)
_XTRACE = Scheme((extend_basis, compress), xtrace_mean)
_FUNCTIONALS: dict[str, Any] = {"hutchinson": quadratic_form_functional, "xtrace": xtrace_functional}


def trace(
    op: LinearOperator,
    key: jax.Array,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_products: int = 100,
    min_probes: int = 10,
    driver: Any = "auto",
) -> Estimate:
    """Trace of a symmetric operator; unbiased for a fixed number of probes.

    "hutchinson" averages ⟨z, A z⟩ over vectors of random signs. Its standard error after N products is about
    √(2/N)·‖A‖_F, less what the diagonal has of that norm: the method for spectra without outliers, for operators that
    are nearly diagonal, and where memory is short, as it holds a few vectors.

    "xtrace" spends half of its products on finding where A is large and averages over the rest. Its error follows what
    is left of the spectrum after the largest max_products / 2 eigenvalues: far smaller where they fall fast, as those
    of networks mostly do, up to √2 larger where they do not. It holds a basis of max_products / 2 vectors.

    Under differentiation the mean is a function of the arrays in ``op`` with probes, basis and their number held
    fixed: its gradient is an unbiased estimate of that of the trace, at the price of as many products again. The
    standard error has no derivative.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        method: "hutchinson"; "xtrace"; or "auto", the second where its basis takes at most 1 GiB, over all devices.
        tol: None to use all products, or the standard error, relative to the estimate, at which to stop. A trace near
            0 beside a large ‖A‖_F may not get there.
        max_products: static, most products; "xtrace" takes 2 for each probe and never more than 2n, which are exact.
        min_probes: static, probes before the first look at the standard error, at least 2: that of few probes is
            itself uncertain, by √(1/2k) of its size for k normal samples, and a lucky one would stop the run.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        Mean, standard error, and whether the tolerance was met. The estimates that "xtrace" averages are not
        independent: its standard error allows for that by a factor √2, which is more than flat spectra need and about
        what others do. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, the method is not known, a number is out of range, or the
            driver cannot run here.
        TypeError: if ``key`` is no typed key or a number is no int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(3), jnp.array([1.0, 3.0, 5.0]))
        >>> spectral.trace(op, jax.random.key(0), max_products=12).mean.round(3).item()
        9.0

    References:
        Epperly, Tropp and Webber, XTrace: making the most of every sample in stochastic trace estimation, SIMAX 45
        (2024), section 2.1 with the normalization of section 2.3; here the basis grows probe by probe, and symmetry
        replaces two of three stored matrices. Hutchinson, A stochastic estimator of the trace of the influence matrix,
        Communications in Statistics 19 (1990).
    """
    max_products, min_probes = check_arguments(op, key, tol, max_products, min_probes)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    dimension = tree.size(op.struct)
    most = min(max_products // 2, max(dimension, 2))
    if method == "auto":
        itemsize = max(tree.work_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(op.struct))
        method = "xtrace" if most >= 2 and most * dimension * itemsize <= LARGEST_BASIS else "hutchinson"
    if method == "xtrace" and not most:
        raise ValueError("max_products: expected at least 2 for one probe of 'xtrace', got 1")
    chosen = choose_driver(driver, op, key)
    fixed = jax.lax.stop_gradient(op) if chosen == "compiled" else op
    probe_key = jax.random.split(key, 1)[0]
    state: Any
    if method == "xtrace":
        vector = first_probe(op, probe_key, "normal")
        basis = xtrace_start(vector, probe_key, most, tree.is_replicated(vector))
        least = min(min_probes, max(dimension, 2))  # probes that span the space are exact
        state, estimate = run_rounds(chosen, fixed, basis, _XTRACE, tol, most, least)
    else:
        start = sample_start(first_probe(op, probe_key, "rademacher"), probe_key, max_products)
        state, estimate = run_rounds(chosen, fixed, start, _HUTCHINSON, tol, max_products, min_probes)
    if chosen == "compiled":
        estimate = dataclasses.replace(estimate, mean=_with_derivative(method, op, state, estimate.mean))
    return estimate


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_derivative(method: str, op: LinearOperator, state: Any, mean: jax.Array) -> jax.Array:
    return mean


@_with_derivative.defjvp
def _derivative(method: str, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    op, state, mean = primals
    state = jax.lax.stop_gradient(state)

    def functional(op: LinearOperator) -> jax.Array:
        product, struct = op.linearize(), op.struct

        def multiply(v: PyTree) -> PyTree:
            return tree.rows_like(tree.to_work(product(tree.from_rows(tree.cast_like(v, struct)))), v)

        return _FUNCTIONALS[method](multiply, state.vector, state)

    return mean, jax.jvp(functional, (op,), (tangents[0],))[1].astype(mean.dtype)
