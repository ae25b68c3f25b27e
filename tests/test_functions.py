"""f(A) v against dense eigendecompositions, scipy, and what the error estimate promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import NamedSharding, PartitionSpec

from cljax import curvature, parallel, spectral, tree
from tests.oracles import dense_hessian, eps, flat
from tests.problems import problem
from tests.test_lanczos import DRIVERS, operator, random_symmetric

KEY = jax.random.key(0)
EIGENVALUES = np.geomspace(0.05, 4, 40)
MATRIX = random_symmetric(EIGENVALUES)
V = np.random.default_rng(1).standard_normal(40)


def inverse(x):
    return 1 / x


FUNCTIONS = {
    "exp": (jnp.exp, scipy.linalg.expm(MATRIX) @ V),
    "sqrt": (jnp.sqrt, scipy.linalg.sqrtm(MATRIX) @ V),
    "log": (jnp.log, scipy.linalg.logm(MATRIX) @ V),
    "inverse": (inverse, np.linalg.solve(MATRIX, V)),
}


@DRIVERS
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_against_dense_ones(name, driver, x64):
    fn, exact = FUNCTIONS[name]
    found = spectral.apply_function(operator(MATRIX, jnp.float64), fn, jnp.asarray(V), 40, driver=driver)
    np.testing.assert_allclose(found.product, exact, atol=1e-10 * np.linalg.norm(exact))
    assert found.num_products == 40


@pytest.mark.parametrize("steps", [8, 16, 24])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_estimate_is_not_below_the_error(name, steps, x64):
    """The distance to three quarters of the steps; where convergence is geometric the rest of the way is shorter."""
    fn, exact = FUNCTIONS[name]
    found = spectral.apply_function(operator(MATRIX, jnp.float64), fn, jnp.asarray(V), steps)
    error = np.linalg.norm(found.product - exact)
    assert error <= 2 * found.error_estimate + 1e-13 * np.linalg.norm(exact)
    fewer = spectral.apply_function(operator(MATRIX, jnp.float64), fn, jnp.asarray(V), steps - steps // 4).product
    np.testing.assert_allclose(found.error_estimate, np.linalg.norm(found.product - fewer), rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_polynomials_are_exact_from_one_step_more(degree):
    found = spectral.apply_function(operator(MATRIX), partial_power(degree), jnp.asarray(V, jnp.float32), degree + 1)
    exact = np.linalg.matrix_power(MATRIX, degree) @ V
    # the powers of eigenvalues that rounding has moved by eps·4 each
    np.testing.assert_allclose(found.product, exact, atol=16 * eps(jnp.float32) * 4.0**degree * np.linalg.norm(V))


def partial_power(degree):
    return jax.tree_util.Partial(_power, jnp.asarray(degree, jnp.float32))


def _power(degree, x):
    return x**degree


@DRIVERS
def test_an_exhausted_space_is_exact(driver):
    """Three distinct eigenvalues: three steps are all, the others change nothing."""
    matrix = random_symmetric([1.0] * 10 + [2.0] * 10 + [5.0] * 10)
    v = jnp.asarray(V[:30], jnp.float32)
    found = spectral.apply_function(operator(matrix), jnp.exp, v, 12, driver=driver)
    exact = scipy.linalg.expm(matrix) @ V[:30]
    bound = 32 * eps(jnp.float32) * np.exp(5) * np.linalg.norm(V[:30]) * 5
    np.testing.assert_allclose(found.product, exact, atol=bound)
    assert found.error_estimate <= bound


def test_structure(x64):
    case = problem("nested-scalar")
    op = curvature.hessian(case.objective, case.params, case.batch)
    v = tree.random_like(KEY, case.params)
    found = spectral.apply_function(op, jnp.tanh, v, tree.size(v))
    values, vectors = np.linalg.eigh(dense_hessian(case.objective, case.params, case.batch))
    exact = vectors @ (np.tanh(values) * (vectors.T @ flat(v)))
    assert jax.tree.structure(found.product) == jax.tree.structure(case.params)
    np.testing.assert_allclose(flat(found.product), exact, atol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_in_is_dtype_out(dtype):
    found = spectral.apply_function(operator(MATRIX, dtype), jnp.exp, jnp.asarray(V, dtype), 10)
    assert found.product.dtype == dtype
    assert found.error_estimate.dtype == jnp.float32


@DRIVERS
def test_sharding_is_kept(driver):
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    sharding = NamedSharding(parallel.data_mesh(), PartitionSpec("data"))
    one, other = (
        spectral.apply_function(curvature.hessian(quartic, w), jnp.tanh, w, 5, driver=driver)
        for w in (jnp.asarray(x), jax.device_put(x, sharding))
    )
    assert other.product.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_allclose(other.product, one.product, atol=1e-4 * np.abs(one.product).max())


def quartic(w):
    return jnp.sum(jnp.cos(w)) + jnp.sum(w) ** 2 / 100


def test_zero_nan_one_step_and_beyond_the_domain():
    op = operator(MATRIX)
    zero = spectral.apply_function(op, jnp.exp, jnp.zeros(40), 5)
    assert np.all(zero.product == 0)
    assert zero.error_estimate == 0
    ones = jnp.ones(40)
    assert np.isnan(spectral.apply_function(op, jnp.exp, ones * jnp.nan, 5).product).all()
    assert np.isnan(spectral.apply_function(operator(MATRIX * np.nan), jnp.exp, ones, 5).product).all()
    assert np.isnan(spectral.apply_function(op.scale(-1.0), jnp.log, ones, 5).product).all()
    assert np.isnan(spectral.apply_function(op, jnp.exp, ones, 1).error_estimate)


def test_one_trace_over_three_operators():
    traces = 0

    def fn(x):
        nonlocal traces
        traces += 1
        return jnp.exp(x)

    for factor in (1.0, 1.1, 1.2):
        spectral.apply_function(operator(factor * MATRIX), fn, jnp.ones(40), 8)
    assert traces == 2  # the result and the one of fewer steps


def test_inside_of_jit():
    run = jax.jit(lambda op, v: spectral.apply_function(op, jnp.exp, v, 20).product)
    v = jnp.asarray(V, jnp.float32)
    exact = FUNCTIONS["exp"][1]
    np.testing.assert_allclose(run(operator(MATRIX), v), exact, atol=1e-4 * np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda op, v: spectral.apply_function(op, jnp.sum, v, 5), ValueError, "fn: expected an elementwise function"),
        (lambda op, v: spectral.apply_function(op, 3, v, 5), TypeError, "fn: expected a function"),
        (lambda op, v: spectral.apply_function(op, jnp.exp, v[:3], 5), ValueError, "v: expected shape"),
        (lambda op, v: spectral.apply_function(op, jnp.exp, v, 0), ValueError, "num_steps: expected"),
        (lambda op, v: spectral.apply_function(op, jnp.exp, v, 41), ValueError, "num_steps: expected at most"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(operator(MATRIX), jnp.ones(40))
