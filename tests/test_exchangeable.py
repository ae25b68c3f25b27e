"""Leave-one-out estimators against their definitions, written out in dense float64, and against exact values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from cljax import curvature, spectral
from cljax.spectral.rounds import probe_like
from tests.oracles import eps
from tests.test_lanczos import DRIVERS, operator, product, random_symmetric

KEY = jax.random.key(0)
N, PROBES = 24, 6
FALLING = random_symmetric(2.0 ** -np.arange(N))
INDEFINITE = random_symmetric(np.r_[3.0, -2.0, np.linspace(-1, 1, N - 2)])


def counted(matrix, **options):
    return curvature.FunctionOperator(product, jnp.zeros(len(matrix)), jnp.float32(matrix), **options)


def probes(distribution):
    """The columns that a run with ``KEY`` draws."""
    key = jax.random.split(KEY, 1)[0]
    return np.stack([probe_like(key, i, jnp.zeros(N), distribution) for i in range(PROBES)], axis=1)


def diagonal_samples(matrix, omega):
    for i in range(PROBES):
        Q, _ = np.linalg.qr(matrix @ np.delete(omega, i, axis=1))
        P, w = Q @ Q.T, omega[:, i]
        rest = (np.eye(N) - P) @ matrix @ (np.eye(N) - P)
        yield np.diag(P @ matrix + matrix @ P - P @ matrix @ P) + w * (rest @ w)


def trace_samples(matrix, omega):
    for i in range(PROBES):
        others, w = np.delete(omega, i, axis=1), omega[:, i]
        Y = matrix @ others
        K = Y @ np.linalg.solve(others.T @ Y, Y.T)
        yield np.trace(K) + N / (w @ w) * (w @ (matrix - K) @ w)


@DRIVERS
@pytest.mark.parametrize("matrix", [FALLING, INDEFINITE], ids=["falling", "indefinite"])
def test_diagonals_by_definition(matrix, driver, x64):
    op = operator(matrix, jnp.float64)
    found = spectral.diagonal(op, KEY, method="xdiag", max_products=2 * PROBES, driver=driver)
    samples = np.stack(list(diagonal_samples(matrix, probes("rademacher"))))
    # what is divided by is the least singular value of the columns left
    np.testing.assert_allclose(found.mean, samples.mean(0), rtol=0, atol=1e8 * eps(jnp.float64))
    expected = np.sqrt(2) * samples.std(0, ddof=1) / np.sqrt(PROBES)
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-6, atol=1e8 * eps(jnp.float64))
    assert found.num_products == 2 * PROBES
    assert found.num_probes == PROBES


@DRIVERS
def test_traces_by_definition(driver, x64):
    op = operator(FALLING, jnp.float64)
    found = spectral.trace(op, KEY, method="xnystrace", max_products=PROBES, driver=driver)
    samples = np.array(list(trace_samples(FALLING, probes("normal"))))
    np.testing.assert_allclose(found.mean, samples.mean(), rtol=1e8 * eps(jnp.float64))
    means = [np.mean(list(_without(j))) for j in range(PROBES)]
    jackknife = np.sqrt((PROBES - 1) * np.var(means))
    plain = samples.std(ddof=1) / np.sqrt(PROBES)
    np.testing.assert_allclose(found.standard_error, np.sqrt(plain * jackknife), rtol=1e-5)
    assert found.num_products == found.num_probes == PROBES


def _without(j):
    """The estimates of a run without probe j."""
    omega = np.delete(probes("normal"), j, axis=1)
    for i in range(PROBES - 1):
        others, w = np.delete(omega, i, axis=1), omega[:, i]
        Y = FALLING @ others
        K = Y @ np.linalg.solve(others.T @ Y, Y.T)
        yield np.trace(K) + N / (w @ w) * (w @ (FALLING - K) @ w)


@jax.jit
def many(op, keys):
    def one(key):
        diagonal = spectral.diagonal(op, key, method="xdiag", max_products=16)
        return diagonal, spectral.trace(op, key, method="xnystrace", max_products=12)

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_unbiased_and_errors_calibrated(power):
    num = 300
    matrix = random_symmetric(np.arange(1, 41) ** -power)
    diagonal, trace = many(operator(matrix), jax.random.split(KEY, num))
    for found, exact in ((diagonal, np.diag(matrix)), (trace, np.trace(matrix))):
        errors = np.asarray(found.mean, np.float64) - exact
        assert np.all(np.abs(errors.mean(0)) <= 4.5 * errors.std(0) / np.sqrt(num))
        stated = np.sqrt(np.mean(np.asarray(found.standard_error, np.float64) ** 2, axis=0))
        # each of both is known to √(1/2 num), normal or nearly so
        assert np.all(stated >= errors.std(0) * (1 - 5 / np.sqrt(num)))
        assert np.all(stated <= 2.2 * errors.std(0) * (1 + 5 / np.sqrt(num)))
        inside = np.sum(np.abs(errors) <= 2 * np.asarray(found.standard_error), axis=0)
        assert np.all(inside >= binom.ppf(1e-4, num, 0.9))


@DRIVERS
def test_low_rank_is_exact(driver):
    matrix = random_symmetric(np.r_[3.0, 2.0, 1.0, np.zeros(37)])
    bound = 64 * 40 * eps(jnp.float32)
    found = spectral.diagonal(operator(matrix), KEY, method="xdiag", max_products=16, driver=driver)
    np.testing.assert_allclose(found.mean, np.diag(matrix), atol=bound)
    assert np.abs(found.standard_error).max() <= bound
    found = spectral.trace(operator(matrix), KEY, method="xnystrace", max_products=8, driver=driver)
    np.testing.assert_allclose(found.mean, 6, rtol=bound)


def test_falling_spectra_are_better_known():
    matrix = random_symmetric(np.arange(1, 101) ** -2.0)
    op, exact = operator(matrix), np.diag(matrix)

    def error(method):
        found = [spectral.diagonal(op, jax.random.key(k), method=method, max_products=40).mean for k in range(5)]
        return np.median([np.linalg.norm(x - exact) for x in found])

    assert error("xdiag") <= 0.2 * error("hutchinson")

    def trace_error(method):
        found = [spectral.trace(op, jax.random.key(k), method=method, max_products=40).mean for k in range(9)]
        return np.median(np.abs(np.array(found) - np.trace(matrix)))

    assert trace_error("xnystrace") <= 0.5 * trace_error("xtrace")


@DRIVERS
def test_stops_at_the_tolerance(driver):
    matrix = random_symmetric(np.arange(1, 101) ** -2.0)
    options = {"tol": 0.05, "max_products": 100, "driver": driver}
    for found in (
        spectral.diagonal(operator(matrix), KEY, method="xdiag", **options),
        spectral.trace(operator(matrix), KEY, method="xnystrace", **options),
    ):
        assert found.converged
        assert found.num_probes >= 10
        assert found.num_products < 100


def test_auto_asks_what_the_operator_says():
    known = counted(FALLING, positive_semidefinite=True)
    found = spectral.trace(known, KEY, max_products=10)
    assert found.num_probes == found.num_products == 10
    assert spectral.trace(counted(FALLING), KEY, max_products=10).num_probes == 5


def test_an_eigenvalue_below_zero_shows():
    """With two thirds of them negative no run can miss one."""
    matrix = random_symmetric(np.r_[np.ones(8), -np.ones(16)])
    assert np.isnan(spectral.trace(operator(matrix), KEY, method="xnystrace", max_products=12).mean)


@DRIVERS
def test_nan_stays_nan(driver):
    matrix = np.full((N, N), np.nan)
    assert np.isnan(spectral.diagonal(operator(matrix), KEY, method="xdiag", driver=driver).mean).all()
    assert np.isnan(spectral.trace(operator(matrix), KEY, method="xnystrace", driver=driver).mean)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_units_do_not_matter(size):
    options = {"method": "xdiag", "max_products": 2 * PROBES}
    found = spectral.diagonal(operator(size * FALLING), KEY, **options).mean / np.float32(size)
    np.testing.assert_allclose(found, spectral.diagonal(operator(FALLING), KEY, **options).mean, atol=1e-4)
    options = {"method": "xnystrace", "max_products": PROBES}
    found = spectral.trace(operator(size * FALLING), KEY, **options).mean / np.float32(size)
    np.testing.assert_allclose(found, spectral.trace(operator(FALLING), KEY, **options).mean, rtol=1e-4)


def test_gradients_are_those_of_the_mean(x64):
    """The mean is linear in the operator where probes and basis are held: so is its exact derivative."""
    matrix, change = jnp.asarray(FALLING), jnp.asarray(random_symmetric(np.linspace(0, 1, N), seed=1))

    def weighted(t):
        op = curvature.FunctionOperator(product, matrix[0], matrix + t * change)
        return jnp.sum(spectral.diagonal(op, KEY, method="xdiag", max_products=2 * N).mean * jnp.arange(N))

    expected = np.sum(np.diag(change) * np.arange(N))
    np.testing.assert_allclose(jax.jit(jax.grad(weighted))(0.0), expected, rtol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="method: expected one of .*xdiag.*, got 'xtrace'"):
        spectral.diagonal(operator(FALLING), KEY, method="xtrace")
    with pytest.raises(ValueError, match="max_products: expected at least 2 for one probe of 'xdiag', got 1"):
        spectral.diagonal(operator(FALLING), KEY, method="xdiag", max_products=1)
