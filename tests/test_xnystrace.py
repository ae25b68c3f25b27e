"""Nyström traces: calibrated errors, signs of eigenvalues, rounding, products, memory and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from cljax import curvature, spectral
from tests.oracles import dense_gauss_newton, tolerance
from tests.problems import problem
from tests.test_lanczos import DRIVERS, operator, random_symmetric
from tests.test_trace import SPECTRA, Counter, N, temp_bytes, traces

KEY = jax.random.key(0)
SEMIDEFINITE = {name: values for name, values in SPECTRA.items() if values.min() >= 0}
SEMIDEFINITE["low rank"] = np.r_[np.ones(5), np.zeros(N - 5)]


@pytest.mark.parametrize("name", SEMIDEFINITE)
def test_unbiased_and_errors_calibrated(name):
    matrix, num = random_symmetric(SEMIDEFINITE[name]), 200
    found = traces(operator(matrix), 1, num, "xnystrace", 30)
    errors = np.asarray(found.mean, np.float64) - np.trace(matrix)
    rounding = tolerance(jnp.float32, N, np.trace(matrix))
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(num) + rounding
    inside = np.sum(np.abs(errors) <= 2 * np.asarray(found.standard_error) + rounding)
    assert inside >= binom.ppf(1e-3, num, 0.9)
    ratio = np.mean(np.asarray(found.standard_error, np.float64) ** 2) / errors.var()
    assert name == "low rank" or 0.7 <= ratio <= 2.6


@pytest.mark.parametrize(("name", "factor"), [("exponential", 5), ("polynomial", 1.1)])
def test_better_than_xtrace_where_the_spectrum_falls(name, factor):
    op = operator(random_symmetric(SPECTRA[name]))

    def rms(method):
        found = traces(op, 1, 200, method, 30).mean
        return np.sqrt(np.mean((np.asarray(found, np.float64) - SPECTRA[name].sum()) ** 2))

    assert rms("xnystrace") * factor <= rms("xtrace")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("values", [np.r_[3.0, np.zeros(N - 1)], SEMIDEFINITE["low rank"], np.zeros(N)], ids="150")
@DRIVERS
def test_low_ranks_are_exact(values, driver, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        op = operator(random_symmetric(values), dtype)
        found = spectral.trace(op, KEY, method="xnystrace", max_products=24, driver=driver)
        assert found.mean.dtype == jnp.promote_types(dtype, jnp.float32)
    slack = 4 * np.sqrt(24) * tolerance(dtype, N, np.abs(values).sum())
    assert abs(float(found.mean) - values.sum()) <= slack
    assert float(found.standard_error) <= slack


@DRIVERS
@pytest.mark.parametrize("values", [SPECTRA["outliers"], -np.ones(N), np.r_[np.ones(N - 1), -10.0]])
def test_eigenvalues_below_zero_that_show_give_nan(values, driver):
    op = operator(random_symmetric(values))
    found = spectral.trace(op, KEY, method="xnystrace", tol=0.01, max_products=55, driver=driver)
    assert np.isnan(found.mean)
    assert np.isnan(found.standard_error)
    assert not found.converged


def test_eigenvalues_below_zero_that_do_not_show_give_no_bias():
    values = np.r_[np.linspace(1, 3, N - 1), -0.5]
    found = traces(operator(random_symmetric(values)), 1, 200, "xnystrace", 10)
    errors = np.asarray(found.mean, np.float64) - values.sum()
    assert np.isfinite(errors).all()
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(200)
    assert np.mean(np.abs(errors) <= 2 * np.asarray(found.standard_error)) >= 0.87


def test_what_is_added_for_rounding_gives_no_bias():
    """Of products in bfloat16 it is a tenth of the greatest entry of M."""
    exact = 2.0 ** -(np.arange(N) // 4)
    values = jnp.asarray(exact, jnp.bfloat16)
    found = traces(curvature.FunctionOperator(jnp.multiply, values, values), 1, 400, "xnystrace", 12)
    errors = np.asarray(found.mean, np.float64) - exact.sum()
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(400)


def one_eigenvalue(n):
    d = jnp.asarray(np.r_[1.0, np.zeros(n - 1)], jnp.float32)
    return curvature.FunctionOperator(jnp.multiply, d, d)


OF_LOW_RANK = {
    "one of 60": lambda: one_eigenvalue(60),
    "one of 2000": lambda: one_eigenvalue(2000),
    "low rank": lambda: operator(random_symmetric(SEMIDEFINITE["low rank"])),
}


@pytest.mark.parametrize("name", OF_LOW_RANK)
def test_rounding_is_not_taken_for_an_eigenvalue_below_zero(name):
    assert np.isfinite(traces(OF_LOW_RANK[name](), 3, 50, "xnystrace", 50).mean).all()


@DRIVERS
def test_products_are_counted_and_a_tolerance_stops(driver):
    counter = Counter()
    matrix = jnp.asarray(random_symmetric(SPECTRA["exponential"]), jnp.float32)
    op = curvature.FunctionOperator(counter, matrix[0], matrix)
    for tol, most in ((None, 13), (0.01, 100)):
        counter.products = 0
        found = spectral.trace(op, KEY, method="xnystrace", tol=tol, max_products=most, driver=driver)
        jax.effects_barrier()
        assert counter.products == found.num_products == found.num_probes
        assert found.num_products == 13 if tol is None else 10 <= found.num_products < 60
        assert bool(found.converged) == (tol is not None)


def test_gradients_are_unbiased(x64):
    weights = jnp.asarray(random_symmetric(np.linspace(-1, 1, 12)))
    base = jnp.asarray(random_symmetric(0.5 ** np.arange(12)))

    def estimate(t, key):
        return spectral.trace(operator(base + t * weights @ weights, jnp.float64), key, **options).mean

    options = {"method": "xnystrace", "max_products": 6}
    found = jax.lax.map(lambda key: jax.grad(estimate)(0.1, key), jax.random.split(KEY, 200))
    assert abs(found.mean() - jnp.trace(weights @ weights)) <= 4 * found.std(ddof=1) / np.sqrt(200)


def test_memory():
    n = 100_000
    assert temp_bytes(n, method="xnystrace", max_products=40) <= 1.3 * 40 * 4 * n


def test_auto_takes_it_for_operators_that_say_that_they_are_semidefinite(x64):
    case = problem("softmax-mlp")
    op = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    found = spectral.trace(op, KEY, max_products=24)
    assert found.num_probes == 24
    exact = np.trace(dense_gauss_newton(case.apply_fn, case.loss, case.params, case.batch))
    assert abs(found.mean - exact) <= 4 * found.standard_error
    hessian = curvature.hessian(case.objective, case.params, case.batch)
    assert spectral.trace(hessian, KEY, max_products=24).num_probes == 12
    ones = jnp.ones(4)
    small = curvature.FunctionOperator(jnp.multiply, ones, ones, positive_semidefinite=True)
    assert spectral.trace(small, KEY, max_products=8).num_probes == 4  # all products of "xtrace", which are exact
