"""This library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import NotApplicableError, Request, check_semidefinite
from cljax import spectral, tree

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


@estimator(
    "cljax Lanczos, jitted",
    "extremes",
    control="budget",
    settings="lanczos, then the eigenvalues of its matrix, inside of jit; no stopping rule",
)
def extremes_lanczos(request: Request) -> Any:
    """Ritz values of so many steps, from the start vector that others get."""
    bottom, top, steps, op = request.num_bottom, request.num_top, request.budget, request.op
    if not bottom + top <= steps <= request.dimension:
        raise NotApplicableError(f"takes {bottom + top} to {request.dimension} products")
    unravel = ravel_pytree(tree.zeros_like(op.struct))[1]

    @jax.jit
    def program(op: Any, v: jax.Array) -> jax.Array:
        found = spectral.lanczos(op, unravel(v), steps)
        beside = found.betas[:-1]
        return jnp.linalg.eigvalsh(jnp.diag(found.alphas) + jnp.diag(beside, 1) + jnp.diag(beside, -1))

    def run(seed: int) -> Any:
        values = np.asarray(program(op, jnp.asarray(request.start(seed))))
        return np.concatenate([values[:bottom], values[steps - top :]])

    return run


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


def _register(name: str, task: str, settings: str, make: Callable[[Request], Any]) -> None:
    """Register what takes a number of products twice: as it is called, and inside of jit as one program.

    Args:
        name: what results call the first; the second is ", jitted".
        task: name of the task.
        settings: how it is set.
        make: ``make(request)`` gives a function of operator and key.
    """

    def setup(request: Request) -> Any:
        fn, op = make(request), request.op
        return lambda seed: jax.tree.map(np.asarray, fn(op, jax.random.key(seed)))

    def jitted(request: Request) -> Any:
        fn, op = jax.jit(make(request)), request.op
        return lambda seed: jax.tree.map(np.asarray, fn(op, jax.random.key(seed)))

    estimator(name, task, control="budget", settings=settings)(setup)
    estimator(f"{name}, jitted", task, control="budget", settings=f"{settings}; inside of jit")(jitted)


def _density(num_probes: int, share: float = 0.0) -> Any:
    """What is found of a spectrum by probes, with a share of the products to search for its ends first."""

    def make(request: Request) -> Any:
        search = int(share * request.budget)
        each = max((request.budget - search) // num_probes, 1)
        options: dict[str, Any] = {"num_probes": num_probes, "search_steps": search, "num_steps": each}
        return lambda op, key: tuple(spectral.spectral_density(op, key, **options).points())

    return make


for _words, _number in (("1 probe", 1), ("4 probes", 4)):
    _register(
        f"cljax Lanczos, {_words}", "density", "spectral_density, reorthogonalized; its points", _density(_number)
    )
for _words, _share, _number in (("two thirds", 2 / 3, 1), ("one third", 1 / 3, 2)):
    _register(
        f"cljax Lanczos, {_words} to search",
        "density",
        f"spectral_density with {_words} of the products for search_steps, probes: {_number}; its points",
        _density(_number, _share),
    )


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
    def make(request: Request) -> Any:
        if method == "xnystrace":
            check_semidefinite(request)
        return lambda op, key: spectral.trace(op, key, method=method, max_products=request.budget).mean

    return make


def _diagonal(method: str) -> Any:
    def make(request: Request) -> Any:
        return lambda op, key: _flat(spectral.diagonal(op, key, method=method, max_products=request.budget).mean)

    return make


_register("cljax Hutchinson", "trace", "random signs", _trace("hutchinson"))
_register("cljax XTrace", "trace", "normal probes, resphered", _trace("xtrace"))
_register("cljax XNysTrace", "trace", "normal probes of one length; semidefinite", _trace("xnystrace"))
_register("cljax", "diagonal", "random signs", _diagonal("hutchinson"))
_register("cljax XDiag", "diagonal", "random signs, sampled part of both sides", _diagonal("xdiag"))


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
