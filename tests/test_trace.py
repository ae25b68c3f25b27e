"""Traces and Frobenius norms by random probes against dense matrices, matfree, and what their errors promise."""

from functools import partial

import jax
import jax.numpy as jnp
import matfree.stochtrace
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from scipy.stats import binom

import cljax
from cljax import curvature, losses, parallel, spectral, tree
from tests.oracles import dense_hessian, eps, tolerance
from tests.problems import SHANNON, linear, problem
from tests.test_lanczos import DRIVERS, operator, random_symmetric

N = 60
SPECTRA = {
    "exponential": 0.7 ** np.arange(N),
    "polynomial": 1 / np.arange(1.0, N + 1) ** 2,
    "flat": np.linspace(1, 3, N),
    "outliers": np.r_[10.0, -8.0, np.linspace(-1, 1, N - 2)],
}
METHODS = pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
KEY = jax.random.key(0)


@partial(jax.jit, static_argnames=("num", "method", "products"))
def traces(op, seed, num, method, products, tol=None):
    """Estimates for many keys, compiled once for all matrices."""
    keys = jax.random.split(jax.random.key(seed), num)
    run = partial(spectral.trace, op, method=method, max_products=products, tol=tol)
    # a batch of runs would go on until the last of them stops
    return jax.lax.map(run, keys, batch_size=None if tol is not None else 50)


@METHODS
@pytest.mark.parametrize("name", SPECTRA)
def test_unbiased_and_errors_calibrated(name, method):
    matrix, num = random_symmetric(SPECTRA[name]), 200
    found = traces(operator(matrix), 1, num, method, 40)
    errors = np.asarray(found.mean, np.float64) - np.trace(matrix)
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(num)
    # 2 standard errors of a few skewed samples hold in 87 to 99 of 100 cases; within the binomial 0.1 % points of that
    inside = np.sum(np.abs(errors) <= 2 * np.asarray(found.standard_error))
    assert binom.ppf(1e-3, num, 0.87) <= inside <= num
    # the mean square of the standard errors is the variance, for "xtrace" up to the factors it allows for
    ratio = np.mean(np.asarray(found.standard_error, np.float64) ** 2) / errors.var()
    assert 0.7 <= ratio <= (1.4 if method == "hutchinson" else 2.6 / (1 - 20 / N))


@pytest.mark.parametrize(("name", "factor"), [("exponential", 100), ("polynomial", 30)])
def test_xtrace_beats_hutchinson_where_the_spectrum_falls(name, factor):
    """As figure 1 of Epperly, Tropp and Webber: errors at equal products, here as root mean squares over keys."""
    op = operator(random_symmetric(SPECTRA[name]))

    def rms(method, products):
        found = traces(op, 1, 200, method, products).mean
        return np.sqrt(np.mean((np.asarray(found, np.float64) - SPECTRA[name].sum()) ** 2))

    assert rms("xtrace", 40) * factor <= rms("hutchinson", 40)
    # what is left of the spectrum after half as many eigenvalues as products falls so much; a root would be 1.4
    left = [np.linalg.norm(SPECTRA[name][m:]) for m in (10, 20)]
    assert rms("xtrace", 20) / rms("xtrace", 40) >= left[0] / left[1] / 1.5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "eigenvalues",
    [np.ones(N), np.r_[3.0, np.zeros(N - 1)], np.r_[2.0, -2.0, 1.0, np.zeros(N - 3)], np.zeros(N), np.full(N, -2.0)],
    ids=["identity", "rank-1", "trace-of-differences", "zero", "negative"],
)
@DRIVERS
def test_xtrace_of_degenerate_operators_is_exact(eigenvalues, driver, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        found = spectral.trace(
            operator(random_symmetric(eigenvalues), dtype), KEY, method="xtrace", max_products=24, driver=driver
        )
    slack = tolerance(dtype, N, np.abs(eigenvalues).sum())
    assert abs(float(found.mean) - eigenvalues.sum()) <= slack
    assert float(found.standard_error) <= slack
    assert found.num_products == 24


@pytest.mark.parametrize("n", [1, 2, 30])
def test_all_products_of_a_small_operator_give_its_trace(n):
    eigenvalues = np.random.default_rng(n).standard_normal(n)
    found = spectral.trace(operator(random_symmetric(eigenvalues)), KEY, max_products=200)
    slack = tolerance(jnp.float32, n, np.abs(eigenvalues).sum())
    assert abs(found.mean - eigenvalues.sum()) <= slack
    assert found.standard_error <= slack
    assert found.num_products == 2 * max(n, 2)


@METHODS
@pytest.mark.parametrize("size", [1e-30, 1e-21, 1e20, 1e30])
def test_tiny_and_huge_operators(size, method):
    matrix = random_symmetric(SPECTRA["flat"])
    one, other = (
        spectral.trace(operator(scale * matrix), KEY, method=method, max_products=24) for scale in (1.0, size)
    )
    # the same relative error and standard error, up to the rounding of the scaled matrix
    for a, b in ((other.mean, one.mean), (other.standard_error, one.standard_error)):
        assert abs(np.float64(a) / size - np.float64(b)) <= 64 * eps(jnp.float32) * np.trace(matrix)


@DRIVERS
@METHODS
def test_a_hessian_on_a_pytree(method, driver, x64):
    case = problem("nested-scalar")
    op = curvature.hessian(case.objective, case.params, case.batch)
    dense = dense_hessian(case.objective, case.params, case.batch)
    found = spectral.trace(op, KEY, method=method, max_products=2 * len(dense), driver=driver)
    limit = 4 * found.standard_error if method == "hutchinson" else 1e-9 * np.abs(np.linalg.eigvalsh(dense)).sum()
    assert abs(found.mean - np.trace(dense)) <= limit


@METHODS
def test_matfree_says_the_same(method, x64):
    """The same estimator in another program: over keys its errors have the same root mean square, by an F-test."""
    case = problem("softmax-mlp")
    op = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    exact = np.trace(np.asarray(curvature.to_dense(op)))
    flat, unravel = ravel_pytree(case.params)
    if method == "xtrace":
        sampler = matfree.stochtrace.sampler_normal(flat, num=8)
        estimate = matfree.stochtrace.estimator_leave_one_out(matfree.stochtrace.leave_one_out_xtrace(), sampler)
    else:
        sampler = matfree.stochtrace.sampler_signs(flat, num=16)
        estimate = matfree.stochtrace.estimator_monte_carlo(matfree.stochtrace.monte_carlo_trace(), sampler)
    product = op.linearize()
    keys = jax.random.split(KEY, 200)
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(jax.vmap(lambda k: estimate(lambda v: ravel_pytree(product(unravel(v)))[0], k)))(keys) - exact
    ours = traces(op, 2, 200, method, 16).mean - exact
    assert 0.5 <= np.mean(ours**2) / np.mean(theirs**2) <= 2


class Counter:
    """Counts the products that run."""

    def __init__(self):
        self.products = 0

    def __call__(self, v, matrix):
        jax.debug.callback(self._add)
        return matrix @ v

    def _add(self):
        self.products += 1


@DRIVERS
@METHODS
def test_products_are_counted(method, driver):
    counter = Counter()
    matrix = jnp.asarray(random_symmetric(SPECTRA["exponential"]), jnp.float32)
    op = curvature.FunctionOperator(counter, matrix[0], matrix)
    for tol, most in ((None, 13), (0.2, 200)):
        counter.products = 0
        found = spectral.trace(op, KEY, method=method, tol=tol, max_products=most, driver=driver)
        jax.effects_barrier()
        assert counter.products == found.num_products
        assert found.num_products == found.num_probes * (2 if method == "xtrace" else 1)
        assert bool(found.converged) == (tol is not None)
        assert tol is not None or found.num_products == (12 if method == "xtrace" else 13)
        assert found.num_products < 200


@METHODS
def test_stops_do_not_come_by_luck(method):
    """Of the runs that report convergence none is off by more than 5 tolerances, and a few by more than 2."""
    matrix, tol = random_symmetric(SPECTRA["outliers"] + 0.4), 0.1
    found = traces(operator(matrix), 1, 100, method, 400, tol)
    off = np.abs(np.asarray(found.mean) / np.trace(matrix) - 1)
    assert found.converged.all()
    assert np.all(found.num_probes >= 10)
    assert off.max() <= 5 * tol
    assert np.mean(off > 2 * tol) <= 0.15


def test_a_tolerance_out_of_reach_is_not_met():
    found = spectral.trace(operator(random_symmetric(SPECTRA["flat"])), KEY, tol=1e-4, max_products=24)
    assert not found.converged
    assert found.num_products == 24
    assert found.standard_error > 1e-4 * found.mean
    one = spectral.trace(operator(np.eye(3)), KEY, method="hutchinson", max_products=1, tol=0.1)
    assert np.isnan(one.standard_error)
    assert not one.converged
    few = spectral.trace(operator(random_symmetric(SPECTRA["flat"])), KEY, method="xtrace", tol=0.9, max_products=4)
    assert (few.num_probes, few.converged) == (2, False)  # two probes agree by luck


@DRIVERS
@METHODS
def test_nan_stays_nan(method, driver):
    op = operator(np.full((5, 5), np.nan))
    found = spectral.trace(op, KEY, method=method, tol=0.1, max_products=1000, driver=driver)
    assert np.isnan(found.mean)
    assert np.isnan(found.standard_error)
    assert not found.converged
    assert found.num_products <= 20
    assert np.isnan(spectral.frobenius_norm(op, KEY, driver=driver).mean)


@pytest.mark.parametrize(("method", "tol"), [("hutchinson", None), ("xtrace", 0.3)])
def test_gradients_are_third_derivatives(method, tol, x64):
    case = problem("logistic")
    flat, unravel = ravel_pytree(case.params)

    def exact(x):
        return jnp.trace(jax.hessian(lambda y: case.objective(unravel(y), case.batch))(x))

    def estimate(x, key, products):
        op = curvature.hessian(case.objective, unravel(x), case.batch)
        return spectral.trace(op, key, method=method, tol=tol, max_products=products, driver="compiled").mean

    expected = jax.grad(exact)(flat)
    keys = jax.random.split(KEY, 100)
    gradients = jax.jit(lambda x, keys: jax.lax.map(lambda k: jax.grad(estimate)(x, k, 6), keys))(flat, keys)
    error = gradients.std(0, ddof=1) / 10
    # with a tolerance the number of probes depends on them a little: 4 standard errors still hold
    assert np.all(np.abs(gradients.mean(0) - expected) <= 4 * error + 1e-12)


def test_second_derivatives_pass_too(x64):
    def estimate(x):
        op = curvature.hessian(lambda w: jnp.sum(w**4), x)
        return spectral.trace(op, KEY, method="hutchinson", max_products=3).mean

    np.testing.assert_allclose(jax.hessian(estimate)(jnp.array([1.0, 2.0])), 24 * np.eye(2), atol=1e-12)


def placed(axis):
    """Softmax regression with parameters sharded on one axis, or on one device."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.standard_normal((16, 8)), jnp.float32)
    batch = cljax.Batch(jnp.asarray(rng.standard_normal((32, 16)), jnp.float32), jnp.arange(32) % 8)
    if axis is not None:
        mesh = parallel.data_mesh()
        spec = PartitionSpec(*("data" if i == axis else None for i in range(2)))
        params, batch = jax.device_put(params, NamedSharding(mesh, spec)), parallel.shard_batch(batch, mesh)
    return curvature.hessian(losses.objective(linear, SHANNON), params, batch)


@pytest.mark.parametrize(("axis", "driver", "method"), [(0, "host", "xtrace"), (1, "compiled", "hutchinson")])
def test_eight_devices_give_the_same(axis, driver, method):
    one, other = (
        spectral.trace(op, KEY, method=method, max_products=8, driver=driver) for op in (placed(None), placed(axis))
    )
    # the probes are the same, sums are in another order
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-4)
    np.testing.assert_allclose(other.standard_error, one.standard_error, rtol=1e-2)


def temp_bytes(n, **kwargs):
    op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(n), jnp.ones(n))
    run = jax.jit(lambda op, key: spectral.trace(op, key, **kwargs))
    return run.lower(op, KEY).compile().memory_analysis().temp_size_in_bytes


def test_memory():
    n = 100_000
    assert temp_bytes(n, method="hutchinson", max_products=1000) <= 7 * 4 * n
    assert temp_bytes(n, method="xtrace", max_products=80) <= 1.25 * 40 * 4 * n


def test_auto_depends_on_the_memory_of_the_basis():
    few, many = (curvature.FunctionOperator(lambda v: v, jax.ShapeDtypeStruct((n,), jnp.float32)) for n in (100, 10**8))
    assert spectral.trace(few, KEY, max_products=20).num_probes == 10
    run = jax.jit(lambda key: spectral.trace(many, key, max_products=20))
    assert run.lower(KEY).as_text().count("10x100000000") == 0


@pytest.mark.parametrize(("driver", "method"), [("host", "xtrace"), ("compiled", "hutchinson")])
def test_one_trace_over_three_parameter_values(method, driver):
    traces = 0

    def apply_fn(params, x):
        nonlocal traces
        traces += 1
        return linear(params, x)

    case = problem("tokens", jnp.float32)
    objective, counts = losses.objective(apply_fn, SHANNON), []
    for factor in (1.0, 1.1, 1.2):
        op = curvature.hessian(objective, tree.scale(factor, case.params), case.batch)
        spectral.trace(op, KEY, method=method, tol=0.1 * factor, max_products=24, driver=driver)
        counts.append(traces)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        found = spectral.trace(operator(random_symmetric(SPECTRA["outliers"]), dtype), KEY, max_products=24)
        work = jnp.promote_types(dtype, jnp.float32)
    assert found.mean.dtype == found.standard_error.dtype == work
    assert abs(float(found.mean) - SPECTRA["outliers"].sum()) <= 4 * float(found.standard_error) + 40 * N * eps(dtype)


@jax.jit
def norms(op, keys):
    return jax.vmap(lambda key: spectral.frobenius_norm(op, key, max_products=40))(keys)


@pytest.mark.parametrize("name", SPECTRA)
def test_frobenius_norm(name):
    matrix, num = random_symmetric(SPECTRA[name]), 200
    found = norms(operator(matrix), jax.random.split(KEY, num))
    errors = np.asarray(found.mean, np.float64) - np.linalg.norm(matrix)
    bias = np.mean(np.asarray(found.standard_error) ** 2) / (2 * np.linalg.norm(matrix))
    assert abs(errors.mean() + bias) <= 4 * errors.std() / np.sqrt(num)
    inside = np.sum(np.abs(errors) <= 2 * np.asarray(found.standard_error))
    assert binom.ppf(1e-3, num, 0.87) <= inside <= num


@DRIVERS
def test_frobenius_norm_stops_and_scales(driver):
    matrix = random_symmetric(SPECTRA["flat"])
    found = spectral.frobenius_norm(operator(matrix), KEY, tol=0.02, max_products=2000, driver=driver)
    assert found.converged
    assert 10 <= found.num_products < 2000
    assert abs(found.mean - np.linalg.norm(matrix)) <= 4 * 0.02 * np.linalg.norm(matrix)
    for size in (1e-30, 1e30):
        other = spectral.frobenius_norm(operator(size * matrix), KEY, max_products=20, driver=driver)
        one = spectral.frobenius_norm(operator(matrix), KEY, max_products=20, driver=driver)
        np.testing.assert_allclose(np.float64(other.mean) / size, one.mean, rtol=64 * eps(jnp.float32))
    zero = spectral.frobenius_norm(operator(np.zeros((5, 5))), KEY, driver=driver)
    assert (zero.mean, zero.standard_error) == (0, 0)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"method": "hutch"}, ValueError, "method: expected one of"),
        ({"tol": 2.0}, ValueError, "tol: expected a relative tolerance"),
        ({"max_products": 0}, ValueError, "max_products: expected an integer of at least 1"),
        ({"max_products": 1, "method": "xtrace"}, ValueError, "max_products: expected at least 2"),
        ({"min_probes": 1}, ValueError, "min_probes: expected an integer of at least 2"),
        ({"max_products": 2.5}, TypeError, "max_products: expected a static integer"),
        ({"driver": "fast"}, ValueError, "driver: expected one of"),
    ],
)
def test_bad_input(kwargs, error, message):
    with pytest.raises(error, match=message):
        spectral.trace(operator(np.eye(3)), KEY, **kwargs)


def test_bad_operators_and_keys():
    jacobian = curvature.jacobian(lambda p, x: x @ p, jnp.ones((2, 1)), jnp.ones((3, 2)))
    for fn in (spectral.trace, spectral.frobenius_norm, spectral.diagonal):
        with pytest.raises(ValueError, match="op: expected a symmetric operator"):
            fn(jacobian, KEY)
        with pytest.raises(TypeError, match="key: expected one typed PRNG key"):
            fn(operator(np.eye(3)), 0)
        with pytest.raises(TypeError, match=r"op: expected a cljax\.curvature\.LinearOperator"):
            fn(np.eye(3), KEY)


@DRIVERS
@METHODS
def test_near_the_top_of_the_range(method, driver):
    """A trace whose inverse is denormal, which XLA may count as 0."""
    entries = jnp.full(100, 1.2e36)
    op = curvature.FunctionOperator(times, entries, entries)
    found = spectral.trace(op, KEY, method=method, max_products=40, driver=driver)
    # the normal probes of "xtrace" leave a multiple of the identity no error either
    np.testing.assert_allclose(found.mean, 1.2e38, rtol=100 * eps(jnp.float32))
    assert eps(jnp.float32) * 1e38 <= found.standard_error <= 1e-5 * found.mean


def times(v, d):
    return d * v
