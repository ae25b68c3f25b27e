"""Diagonals by random probes against dense matrices, matfree, and what their errors promise."""

import jax
import jax.numpy as jnp
import matfree.stochtrace
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from scipy.stats import binom

from cljax import curvature, parallel, spectral, tree
from tests.oracles import dense_hessian, eps, flat
from tests.problems import problem
from tests.test_lanczos import DRIVERS, operator, random_symmetric

KEY = jax.random.key(0)
MATRIX = random_symmetric(np.r_[10.0, -8.0, np.linspace(-1, 1, 28)])


@jax.jit
def diagonals(op, keys):
    return jax.vmap(lambda key: spectral.diagonal(op, key, method="hutchinson", max_products=40))(keys)


def test_unbiased_and_errors_calibrated():
    num = 200
    found = diagonals(operator(MATRIX), jax.random.split(KEY, num))
    errors = np.asarray(found.mean, np.float64) - np.diag(MATRIX)
    assert np.all(np.abs(errors.mean(0)) <= 4.5 * errors.std(0) / np.sqrt(num))  # 30 entries
    inside = np.sum(np.abs(errors) <= 2 * np.asarray(found.standard_error), axis=0)
    assert np.all(inside >= binom.ppf(1e-4, num, 0.92))
    assert np.all(inside <= binom.ppf(1 - 1e-4, num, 0.97))
    # the variance is known: the squares of the rest of the row
    exact = np.sqrt((np.sum(MATRIX**2, axis=1) - np.diag(MATRIX) ** 2) / 40)
    rms = np.sqrt(np.mean(np.asarray(found.standard_error, np.float64) ** 2, axis=0))
    np.testing.assert_allclose(rms, exact, rtol=4 / np.sqrt(2 * num))


@DRIVERS
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_diagonal_operators_are_exact(size, driver):
    entries = np.r_[0.0, np.linspace(-1, 3, 6)] * size
    found = spectral.diagonal(operator(np.diag(entries)), KEY, method="hutchinson", tol=0.01, driver=driver)
    expected = np.float32(entries)
    np.testing.assert_array_equal(found.mean, expected)
    assert np.all(found.standard_error <= 2 * eps(jnp.float32) * np.abs(expected))
    assert found.converged
    assert found.num_products == found.num_probes == 10


@DRIVERS
def test_structure_and_stop(driver, x64):
    case = problem("nested-scalar")
    op = curvature.hessian(case.objective, case.params, case.batch)
    exact = np.diag(dense_hessian(case.objective, case.params, case.batch))
    found = spectral.diagonal(op, KEY, method="hutchinson", tol=0.03, max_products=5000, driver=driver)
    assert jax.tree.structure(found.mean) == jax.tree.structure(found.standard_error) == jax.tree.structure(case.params)
    assert found.converged
    assert 10 < found.num_products < 5000
    assert tree.norm(found.standard_error) <= 0.03 * tree.norm(found.mean)
    assert np.all(np.abs(flat(found.mean) - exact) <= 4.5 * flat(found.standard_error) + 1e-12)
    assert np.linalg.norm(flat(found.mean) - exact) <= 3 * 0.03 * np.linalg.norm(exact)


def test_tiny_operators_keep_their_errors():
    one, tiny = (spectral.diagonal(operator(size * MATRIX), KEY, max_products=20) for size in (1.0, 1e-30))
    np.testing.assert_allclose(np.float64(tiny.standard_error) * 1e30, one.standard_error, rtol=1e-4)


def test_matfree_says_the_same():
    matrix = jnp.asarray(MATRIX, jnp.float32)
    sampler = matfree.stochtrace.sampler_signs(matrix[0], num=400)
    estimate = matfree.stochtrace.estimator_monte_carlo(matfree.stochtrace.monte_carlo_diagonal(), sampler)
    found = spectral.diagonal(operator(MATRIX), KEY, method="hutchinson", max_products=400)
    both = np.sqrt(2) * np.asarray(found.standard_error)
    assert np.all(np.abs(estimate(lambda v: matrix @ v, KEY) - found.mean) <= 4.5 * both)


@DRIVERS
def test_sharding_is_kept(driver):
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)

    def objective(w):
        return jnp.sum(w**4) + jnp.sum(w) ** 2

    sharding = NamedSharding(parallel.data_mesh(), PartitionSpec("data"))
    one = spectral.diagonal(curvature.hessian(objective, jnp.asarray(x)), KEY, max_products=8, driver=driver)
    other = spectral.diagonal(
        curvature.hessian(objective, jax.device_put(x, sharding)), KEY, max_products=8, driver=driver
    )
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-4, atol=1e-4)
    for found in (other.mean, other.standard_error):
        assert found.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        found = spectral.diagonal(operator(np.diag([1.0, 2.0]), dtype), KEY, max_products=3)
        assert found.mean.dtype == found.standard_error.dtype == jnp.promote_types(dtype, jnp.float32)


def test_nan_stays_nan_and_one_probe_has_no_error():
    found = spectral.diagonal(operator(np.full((5, 5), np.nan)), KEY, tol=0.1)
    assert np.isnan(found.mean).all()
    assert np.isnan(found.standard_error).all()
    assert not found.converged
    one = spectral.diagonal(operator(MATRIX), KEY, max_products=1, tol=0.1)  # by "hutchinson"
    assert np.isnan(one.standard_error).all()
    assert not one.converged


def test_memory_does_not_grow_with_the_probes():
    n = 100_000
    op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(n), jnp.ones(n))
    run = jax.jit(lambda op, key: spectral.diagonal(op, key, method="hutchinson", max_products=1000))
    assert run.lower(op, KEY).compile().memory_analysis().temp_size_in_bytes <= 8 * 4 * n


def test_gradient_of_an_entry(x64):
    case = problem("logistic")
    x, unravel = ravel_pytree(case.params)

    def estimate(x):
        op = curvature.hessian(case.objective, unravel(x), case.batch)
        return jnp.sum(spectral.diagonal(op, KEY, method="hutchinson", max_products=5).mean)

    step = 1e-5 * jnp.eye(x.size)[0]
    difference = (estimate(x + step) - estimate(x - step)) / 2e-5
    np.testing.assert_allclose(jax.grad(estimate)(x)[0], difference, rtol=1e-6)


@DRIVERS
@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
def test_near_the_top_of_the_range(method, driver):
    """Right where it is in range, else not finite; never 0."""
    for size in (1e35, 1e37):
        entries = jnp.asarray(size * np.arange(1, 31), jnp.float32)
        op = curvature.FunctionOperator(times, entries, entries)
        found = spectral.diagonal(op, KEY, method=method, tol=0.1, max_products=60, driver=driver)
        if method == "xdiag" and size > 1e36:  # the norm of a product is out of range
            assert np.isnan(found.mean).all()
            assert not found.converged
        else:
            error = np.linalg.norm(np.asarray(found.mean / entries.max() - entries / entries.max(), float))
            assert error <= 0.3 * np.linalg.norm(np.arange(1, 31) / 30)
            assert np.all(found.mean > 0)


def times(v, d):
    return d * v
