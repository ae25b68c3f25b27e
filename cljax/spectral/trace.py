"""Trace of an operator by random probes, with its standard error.

matfree estimates traces well for flat vectors that are whole on each device, and operators of this library run in it.
What is written here keeps the structure and the sharding of the parameters, holds one basis where XTrace as published
holds three, stops by itself once the standard error is small enough, and runs compiled or stepped from the host.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import choose_driver
from cljax.spectral.estimate import Estimate
from cljax.spectral.held_fixed import with_derivative
from cljax.spectral.range_basis import LARGEST_BASIS, LEAST_PROBES, basis_bytes, extend_basis
from cljax.spectral.rounds import Scheme, check_arguments, first_probe, run_rounds
from cljax.spectral.samples import quadratic_form_functional, sample_mean, sample_start, take_quadratic_form
from cljax.spectral.xnystrace import nystrom_mean, nystrom_start, take_product
from cljax.spectral.xtrace import compress, xtrace_functional, xtrace_mean, xtrace_start

METHODS = ("auto", "hutchinson", "xtrace", "xnystrace")
_SCHEMES = {
    "hutchinson": Scheme((take_quadratic_form,), sample_mean),
    "xtrace": Scheme((extend_basis, compress), xtrace_mean),
    "xnystrace": Scheme((take_product,), nystrom_mean),
}
# the range that "xnystrace" finds is as good for the derivative as that of "xtrace": both leave one probe out
_FUNCTIONALS: dict[str, Any] = {
    "hutchinson": quadratic_form_functional,
    "xtrace": xtrace_functional,
    "xnystrace": xtrace_functional,
}


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

    "xnystrace" is for positive semidefinite operators, and spends all of its products on both at once: what is left is
    that after max_products eigenvalues. It holds a basis of max_products vectors. Where rounded products show an
    eigenvalue below 0 of some size, the mean is NaN; one that is small or does not show costs accuracy, as the
    standard error then says, and no bias.

    Under differentiation the mean is a function of the arrays in ``op`` with probes, basis and their number held
    fixed, for "xnystrace" the mean of "xtrace" on its probes. The gradient is an unbiased estimate of that of the
    trace, at the price of as many products again, twice as many for "xnystrace". The standard error has no derivative.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        method: "hutchinson"; "xtrace"; "xnystrace"; or "auto": the last of them for operators that say that they are
            ``positive_semidefinite`` and for less than 2n products, which make "xtrace" exact; else "xtrace"; and
            "hutchinson" where their bases take more than 1 GiB, over all devices.
        tol: None to use all products, or the standard error, relative to the estimate, at which to stop. A trace near
            0 beside a large ‖A‖_F may not get there.
        max_products: static, most products; "xtrace" takes 2 for each probe and never more than 2n, which are exact,
            "xnystrace" 1 and never more than n, which are not.
        min_probes: static, probes before the first look at the standard error, at least 2: that of few probes is
            itself uncertain, by √(1/2k) of its size for k normal samples, and a lucky one would stop the run. At
            least 4 for "xnystrace", whose first estimates are nearly the same number: fewer never converge.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        Mean, standard error, and whether the tolerance was met. The estimates that "xtrace" and
        "xnystrace" average are not independent: the standard error allows for that, in "xtrace" by a factor √2, and
        more with probes of a number near n, in "xnystrace" with the spread of the means that the
        run would have had without one probe. NaN in the operator gives NaN.

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
        replaces two of three stored matrices; and XNysTrace, here with probes of one length in place of that
        normalization, which would take a second basis. Hutchinson, A stochastic estimator of the trace of the
        influence matrix, Communications in Statistics 19 (1990).
    """
    max_products, min_probes = check_arguments(op, key, tol, max_products, min_probes)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    if method == "auto":
        method = _choose(op, max_products)
    if method == "xtrace" and max_products < 2:
        raise ValueError("max_products: expected at least 2 for one probe of 'xtrace', got 1")
    chosen = choose_driver(driver, op, key)
    fixed = jax.lax.stop_gradient(op) if chosen == "compiled" else op
    probe_key = jax.random.split(key, 1)[0]
    vector = first_probe(op, probe_key, "rademacher" if method == "hutchinson" else "normal")
    most = max_products // 2 if method == "xtrace" else max_products
    start: Any
    if method == "hutchinson":
        start = sample_start(vector, probe_key, most)
    else:
        spanning = max(tree.size(op.struct), 2)  # so many probes span the space
        most, flatten = min(most, spanning), tree.is_replicated(vector)
        if method == "xtrace":
            min_probes = min(min_probes, spanning)  # which are exact
            start = xtrace_start(vector, probe_key, most, flatten)
        else:
            min_probes = max(min_probes, LEAST_PROBES)
            rounding = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(op.struct))
            start = nystrom_start(vector, probe_key, most, flatten, rounding)
    state, estimate = run_rounds(chosen, fixed, start, _SCHEMES[method], tol, most, min_probes)
    if chosen == "compiled":
        estimate = dataclasses.replace(estimate, mean=with_derivative(_FUNCTIONALS[method], op, state, estimate.mean))
    return estimate


def _choose(op: LinearOperator, max_products: int) -> str:
    """The method that knows most of the operator and whose basis is small enough."""
    half = max_products // 2
    if op.positive_semidefinite and half < tree.size(op.struct) and basis_bytes(op, max_products) <= LARGEST_BASIS:
        return "xnystrace"
    return "xtrace" if half >= 2 and basis_bytes(op, half) <= LARGEST_BASIS else "hutchinson"
