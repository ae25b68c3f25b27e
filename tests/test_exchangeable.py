"""Leave-one-out estimators against their definitions, written out in dense float64, and against exact values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from cljax import spectral
from cljax.spectral.rounds import probe_like
from tests.oracles import eps
from tests.test_lanczos import DRIVERS, operator, random_symmetric

KEY = jax.random.key(0)
N, PROBES = 24, 6
FALLING = random_symmetric(2.0 ** -np.arange(N))
INDEFINITE = random_symmetric(np.r_[3.0, -2.0, np.linspace(-1, 1, N - 2)])


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


def test_bad_input():
    with pytest.raises(ValueError, match="method: expected one of .*xdiag.*, got 'xtrace'"):
        spectral.diagonal(operator(FALLING), KEY, method="xtrace")
    with pytest.raises(ValueError, match="max_products: expected at least 2 for one probe of 'xdiag', got 1"):
        spectral.diagonal(operator(FALLING), KEY, method="xdiag", max_products=1)
