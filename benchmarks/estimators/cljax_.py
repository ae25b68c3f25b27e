"""This library."""

from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.estimators.base import NotApplicableError, Request, estimator, quadratures
from cljax import spectral

MOST = 100
MOST_JITTED = 30
"""Products at most inside of jit, where a search reads a basis with a place for each of them in every step."""


@estimator("cljax", "extremes", control="tolerance", settings="defaults, at most 100 products; goes on to 1e-6")
def extremes(request: Request) -> Any:
    """Thick-restart Lanczos that stops by its own rule."""
    return _extremes(request, tol=max(request.tolerance, 1e-6))


@estimator("cljax, budget", "extremes", control="budget", settings="tol 1e-7, max_products the budget")
def extremes_within(request: Request) -> Any:
    """The same with so many products, however good the pairs are."""
    return _extremes(request, tol=1e-7, max_products=request.budget)


@estimator("cljax, compiled", "extremes", control="tolerance", settings="as cljax, one compiled loop")
def extremes_compiled(request: Request) -> Any:
    """The driver that is the default on accelerators: no call of the host for each product."""
    return _extremes(request, tol=max(request.tolerance, 1e-6), driver="compiled")


@estimator(
    "cljax, no certificate",
    "extremes",
    control="tolerance",
    settings="certify=False, criterion='value': ends when the values meet the tolerance, as the others do",
)
def extremes_uncertified(request: Request) -> Any:
    """The fewest products: nothing is done against a pair that the start hides."""
    return _uncertified(request)


@estimator(
    "cljax, no certificate, jitted",
    "extremes",
    control="tolerance",
    settings=f"as cljax, no certificate, inside of jit, of at most {MOST_JITTED} products",
)
def extremes_jitted(request: Request) -> Any:
    """The same by one program of the caller."""
    op, tol = request.op, request.tolerance
    sizes = {"num_top": request.num_top, "num_bottom": request.num_bottom}
    sizes["max_products"] = min(MOST_JITTED, request.dimension)
    return lambda seed: np.asarray(jitted_search(op, jax.random.key(seed), tol, **sizes).values)


@estimator(
    "cljax, from the gradient",
    "extremes",
    control="tolerance",
    settings="as cljax, no certificate, with check=gradient: half a product, timed and not counted",
)
def extremes_from_the_gradient(request: Request) -> Any:
    """A start that has much of the greatest eigenvalues of a network."""
    network = request.case.network
    if network is None:
        raise NotApplicableError("takes networks, whose objective has a gradient")
    return _uncertified(request, network)


def _uncertified(request: Request, network: Any = None) -> Any:
    return _extremes(request, network, tol=request.tolerance, certify=False, criterion="value")


def _extremes(request: Request, network: Any = None, **options: Any) -> Any:
    op = request.op
    options = {"max_products": min(MOST, request.dimension)} | options
    ends = {"num_top": request.num_top, "num_bottom": request.num_bottom}

    def run(seed: int) -> Any:
        check = None if network is None else gradient(network.objective, network.params, network.batch)
        return np.asarray(spectral.extreme_eigenpairs(op, jax.random.key(seed), check=check, **ends, **options).values)

    return run


def _density(num_probes: int, share: float = 0.0) -> Any:
    """What is found of a spectrum by probes, with a share of the products to search for its ends first."""

    def setup(request: Request) -> Any:
        op, search = request.op, int(share * request.budget)
        each = max((request.budget - search) // num_probes, 1)
        options = {"num_probes": num_probes, "search_steps": search, "num_steps": each}

        def run(seed: int) -> Any:
            found = spectral.spectral_density(op, jax.random.key(seed), **options)
            return [np.asarray(x) for x in found.points()]

        return run

    return setup


quadratures("cljax Lanczos", "probe", _density, settings="spectral_density, reorthogonalized; its points")
for words, share, number in (("two thirds", 2 / 3, 1), ("one third", 1 / 3, 2)):
    estimator(
        f"cljax Lanczos, {words} to search",
        "density",
        control="budget",
        settings=f"spectral_density with {words} of the products for search_steps, probes: {number}; its points",
    )(_density(number, share))


@estimator(
    "cljax Chebyshev", "density", control="budget", settings="a third of the products for bounds, at most 20; 1 probe"
)
def chebyshev(request: Request) -> Any:
    """The kernel polynomial method; its distribution function on 4000 points."""
    op = request.op
    bounds = max(min(request.budget // 3, 20), 2)
    degree = max(2 * (request.budget - bounds), 1)

    def run(seed: int) -> Any:
        found = spectral.chebyshev_density(
            op, jax.random.key(seed), num_probes=1, degree=degree, num_bound_steps=bounds
        )
        grid = found.default_grid(4000)
        mass = np.diff(np.asarray(found.cumulative(grid)[0], np.float64), prepend=0.0)
        return np.asarray(grid), np.clip(mass, 0, None)

    return run


def _trace(method: str) -> Any:
    def setup(request: Request) -> Any:
        op = request.op
        return lambda seed: float(
            spectral.trace(op, jax.random.key(seed), method=method, max_products=request.budget).mean
        )

    return setup


estimator("cljax Hutchinson", "trace", control="budget", settings="random signs")(_trace("hutchinson"))
estimator("cljax XTrace", "trace", control="budget", settings="normal probes, resphered")(_trace("xtrace"))


@estimator("cljax XNysTrace", "trace", control="budget", settings="normal probes of one length; semidefinite")
def nystrom(request: Request) -> Any:
    """Nyström approximations that leave one probe out."""
    values = request.case.reference.eigenvalues
    if values is None or values[0] < -1e-6 * values[-1]:
        raise NotApplicableError("takes semidefinite operators")
    return _trace("xnystrace")(request)


def _diagonal(method: str) -> Any:
    def setup(request: Request) -> Any:
        op = request.op

        def run(seed: int) -> Any:
            found = spectral.diagonal(op, jax.random.key(seed), method=method, max_products=request.budget)
            return np.asarray(_flat(found.mean))

        return run

    return setup


estimator("cljax", "diagonal", control="budget", settings="random signs")(_diagonal("hutchinson"))
estimator("cljax XDiag", "diagonal", control="budget", settings="random signs, sampled part of both sides")(
    _diagonal("xdiag")
)


def _plain_gradient(objective: Any, params: Any, batch: Any) -> Any:
    return jax.grad(objective)(params, batch)


def search(
    op: Any, key: Any, tol: Any, start: Any = None, check: Any = None, certify: bool = False, **options: Any
) -> Any:
    """Extreme eigenpairs to a tolerance of their values."""
    options |= {"criterion": "value", "certify": certify}
    return spectral.extreme_eigenpairs(op, key, tol=tol, start=start, check=check, **options)


jitted_search = jax.jit(search, static_argnames=("certify", "num_top", "num_bottom", "max_products"))
"""The same inside of jit, one program for all tolerances."""

gradient = jax.jit(_plain_gradient, static_argnums=0)
"""``gradient(objective, params, batch)``, compiled."""

_flat = jax.jit(lambda x: ravel_pytree(x)[0])
