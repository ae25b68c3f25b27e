"""matfree: always reorthogonalized, compiled as a whole with the operator's arrays as arguments."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimators.base import estimator, quadratures
from benchmarks.estimators.request import NotApplicableError, Request, flat_product

_PEER = {"package": "matfree", "control": "budget"}


def _check(request: Request, most: int) -> None:
    if most > request.dimension:
        raise NotApplicableError(f"takes at most {request.dimension} products")


@estimator("matfree Lanczos", "extremes", settings="eigh_partial(tridiag_sym(reortho='full')), jitted", **_PEER)
def extremes(request: Request) -> Any:
    """Ritz values of so many steps; it has no stopping rule."""
    from matfree import decomp, eig

    wanted = request.num_top + request.num_bottom
    _check(request, request.budget)
    if request.budget < wanted:
        raise NotApplicableError("fewer products than eigenvalues")
    solve = eig.eigh_partial(decomp.tridiag_sym(request.budget, reortho="full"))

    @jax.jit
    def program(op: Any, v: jax.Array) -> jax.Array:
        return jnp.sort(solve(flat_product(op), v)[0])

    op = request.op

    def run(seed: int) -> Any:
        values = np.asarray(program(op, jnp.asarray(request.start(seed))))
        return np.concatenate([values[: request.num_bottom], values[len(values) - request.num_top :]])

    return run


def _density(num_probes: int) -> Any:
    def setup(request: Request) -> Any:
        from matfree import decomp

        num_steps = max(request.budget // num_probes, 1)
        _check(request, num_steps)
        lanczos = decomp.tridiag_sym(num_steps, reortho="full")

        @jax.jit
        def program(op: Any, key: jax.Array) -> Any:
            product = flat_product(op)

            def rule(key: jax.Array) -> Any:
                v = jax.random.rademacher(key, (request.dimension,), jnp.float32)
                values, vectors = jnp.linalg.eigh(lanczos(product, v).J_small)
                return values, vectors[0] ** 2

            return jax.lax.map(rule, jax.random.split(key, num_probes))

        op = request.op
        return lambda seed: tuple(np.asarray(x) for x in program(op, jax.random.key(seed)))

    return setup


quadratures(
    "matfree Lanczos",
    "probe",
    _density,
    package="matfree",
    settings="the Gauss rules of tridiag_sym(reortho='full'), jitted",
)


def _stochastic(make: Any, num_probes: Any) -> Any:
    """An estimator of matfree.stochtrace, jitted: ``make(stochtrace, number of probes)``."""

    def setup(request: Request) -> Any:
        from matfree import stochtrace

        number = num_probes(request.budget)
        _check(request, 2 * number)
        estimate = make(stochtrace, jnp.zeros(request.dimension, jnp.float32), number)

        @jax.jit
        def program(op: Any, key: jax.Array) -> Any:
            return estimate(flat_product(op), key)

        op = request.op

        def run(seed: int) -> Any:
            # the operator is symmetric: its product is its transpose, and need not be transposed
            with mock.patch.object(stochtrace.func, "linear_adjoint", lambda fn, _: lambda v: (fn(v),)):
                return np.asarray(program(op, jax.random.key(seed)))

        return run

    return setup


def _monte_carlo(integrand: str) -> Any:
    def make(stochtrace: Any, like: jax.Array, number: int) -> Any:
        sampler = stochtrace.sampler_signs(like, num=number)
        return stochtrace.estimator_monte_carlo(getattr(stochtrace, integrand)(), sampler)

    return make


def _leave_one_out(integrand: str, sampler: str) -> Any:
    def make(stochtrace: Any, like: jax.Array, number: int) -> Any:
        drawn = getattr(stochtrace, sampler)(like, num=number)
        return stochtrace.estimator_leave_one_out(getattr(stochtrace, integrand)(), drawn)

    return make


estimator("matfree Hutchinson", "trace", settings="random signs, jitted", **_PEER)(
    _stochastic(_monte_carlo("monte_carlo_trace"), lambda budget: budget)
)
estimator("matfree XTrace", "trace", settings="normal probes, resphered, jitted", **_PEER)(
    _stochastic(_leave_one_out("leave_one_out_xtrace", "sampler_normal"), lambda budget: budget // 2)
)
estimator("matfree", "diagonal", settings="random signs, jitted", **_PEER)(
    _stochastic(_monte_carlo("monte_carlo_diagonal"), lambda budget: budget)
)
estimator("matfree XDiag", "diagonal", settings="random signs, jitted, own transpose", **_PEER)(
    _stochastic(_leave_one_out("leave_one_out_xdiag", "sampler_signs"), lambda budget: budget // 2)
)
