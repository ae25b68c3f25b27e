"""Where stochastic estimates are near their limits: coarse products, as many probes as dimensions, two probes, traces
that cancel. What is said of the error has to hold there too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, spectral
from tests.oracles import dense_gauss_newton
from tests.problems import SHANNON
from tests.test_lanczos import operator, random_symmetric

KEY = jax.random.key(0)


def problem(dtype, factor):
    rng = np.random.default_rng(0)
    params = {"a": jnp.float32(rng.standard_normal((10, 16)) / 3), "b": jnp.float32(rng.standard_normal((16, 4)) / 4)}
    batch = cljax.Batch(jnp.float32(rng.standard_normal((8, 10))), jnp.arange(8) % 4)

    def apply_fn(params, x):
        a, b, x = (z.astype(dtype) for z in (params["a"], params["b"], x))
        return (factor * (jnp.tanh(x @ a) @ b)).astype(jnp.float32)

    return apply_fn, params, batch


@pytest.mark.parametrize(("dtype", "factor"), [(jnp.bfloat16, 1), (jnp.float32, 100)], ids=["mixed", "confident"])
@pytest.mark.parametrize("max_products", [30, 100])
def test_traces_of_products_rounded_more_coarsely_than_their_dtype(dtype, factor, max_products):
    apply_fn, params, batch = problem(dtype, factor)
    op = curvature.gauss_newton(apply_fn, SHANNON, params, batch)
    exact = np.trace(dense_gauss_newton(problem(jnp.float32, factor)[0], SHANNON, params, batch))
    for seed in range(6):
        found = spectral.trace(op, jax.random.key(seed), max_products=max_products)
        assert found.num_products == found.num_probes  # xnystrace, chosen by itself
        # a model in bfloat16 is another model: of eight bits, as are its Jacobians
        assert abs(found.mean - exact) <= 5 * found.standard_error + (0.02 * exact if dtype == jnp.bfloat16 else 0)


def test_all_products_are_as_exact_as_they_are():
    """Of a model in bfloat16: runs that span the whole space differ by what their errors say, not by float32's eps."""
    apply_fn, params, batch = problem(jnp.bfloat16, 1)
    op = curvature.hessian(losses.objective(apply_fn, SHANNON), params, batch)
    runs = [spectral.trace(op, key, method="xtrace", max_products=500) for key in jax.random.split(KEY, 6)]
    means, errors = (np.array([getattr(run, name) for run in runs]) for name in ("mean", "standard_error"))
    assert means.std(ddof=1) <= 3 * errors.mean()  # of six runs
    assert errors.mean() <= 20 * means.std(ddof=1)


def many(method, matrix, num_keys, **options):
    keys = jax.random.split(jax.random.key(5), num_keys)
    fn = {"xtrace": spectral.trace, "xdiag": spectral.diagonal}[method]
    run = jax.jit(jax.vmap(lambda op, k: fn(op, k, method=method, **options), in_axes=(None, 0)))
    return run(operator(matrix), keys)


@pytest.mark.parametrize("values", [2.0 ** -np.arange(24), np.arange(1, 49) ** -4.0], ids=["exponential", "polynomial"])
def test_all_products_are_exact(values):
    """Also where one column counts as dependent and another probe has nothing but rounding left."""
    found = many("xtrace", random_symmetric(values), 150, max_products=2 * len(values))
    np.testing.assert_allclose(found.mean, values.sum(), rtol=64 * np.finfo(np.float32).eps * len(values) ** 0.5)


def test_a_bulk_below_the_rounding_of_outliers_counts():
    """A column may count as dependent beside an eigenvalue so great, and still have the bulk in it."""
    entries = jnp.ones(10_000, jnp.float32).at[:2].set(jnp.array([1e8, -1e8]))
    op = curvature.FunctionOperator(lambda v, d: d * v, entries, entries)
    for seed in range(4):
        found = spectral.trace(op, jax.random.key(seed), method="xtrace", max_products=40)
        assert abs(found.mean - 9998) <= 5 * found.standard_error


@pytest.mark.parametrize("num", [20, 28, 34, 38])
def test_errors_of_nearly_all_probes(num):
    """On a flat spectrum the estimates share most of what they leave out."""
    values = np.linspace(0.9, 1.1, 40)
    found = many("xtrace", random_symmetric(values), 400, max_products=2 * num)
    errors = np.asarray(found.mean, float) - values.sum()
    stated = np.sqrt(np.mean(np.asarray(found.standard_error, float) ** 2))
    # each is known to 1/√800 of itself
    assert 0.85 * errors.std() <= stated <= 1.6 * errors.std()


@pytest.mark.parametrize("method", ["xdiag", "xnystrace"])
def test_two_probes_say_nothing_of_the_error(method):
    op = operator(np.eye(24))
    if method == "xdiag":
        found = spectral.diagonal(op, KEY, method=method, max_products=4)
        early = spectral.diagonal(op, KEY, method=method, max_products=100, min_probes=2, tol=0.99)
    else:
        found = spectral.trace(op, KEY, method=method, max_products=2)
        early = spectral.trace(op, KEY, method=method, max_products=24, min_probes=2, tol=0.99)
    assert np.isnan(found.standard_error).all()
    assert found.num_probes == 2
    assert early.num_probes == 4


@pytest.mark.parametrize("n", [2, 3])
def test_small_spaces_have_too_few_probes(n):
    op = operator(random_symmetric(1 / np.arange(1.0, n + 1)))
    assert not spectral.diagonal(op, KEY, method="xdiag", tol=0.05).converged
    assert not spectral.trace(op, KEY, method="xnystrace", tol=0.05).converged
    exact = spectral.trace(op, KEY, method="xtrace", tol=0.05)
    assert exact.converged
    np.testing.assert_allclose(exact.mean, np.sum(1 / np.arange(1.0, n + 1)), rtol=1e-5)


def test_a_trace_that_cancels_is_not_known_to_its_own_size():
    exactly_zero = random_symmetric(np.r_[np.ones(12), -np.ones(12)])
    found = spectral.trace(operator(exactly_zero), KEY, method="xtrace", tol=0.1, max_products=100)
    assert not found.converged
    assert abs(found.mean) <= 8 * found.standard_error
    entries = np.float32(np.r_[np.linspace(1, 2, 100), -np.linspace(1, 2, 100) - 1e-8])
    diagonal = curvature.FunctionOperator(lambda v, d: d * v, entries, jnp.asarray(entries))
    found = spectral.trace(diagonal, KEY, method="hutchinson", tol=0.1, max_products=100)
    assert not found.converged
    assert abs(found.mean - entries.sum(dtype=float)) <= 4 * found.standard_error


def test_negative_weights_are_not_semidefinite():
    apply_fn, params, batch = problem(jnp.float32, 1)
    chunked = losses.chunked_objective(lambda params, x: x, apply_fn, SHANNON, chunk_size=2)
    for weight, expected in ((None, True), (np.ones(8), True), (np.r_[np.ones(7), -0.5], False)):
        part = cljax.Batch(batch.inputs, batch.targets, None if weight is None else jnp.float32(weight))
        for op in (
            curvature.gauss_newton(apply_fn, SHANNON, params, part),
            curvature.fisher(apply_fn, SHANNON, params, part, kind="empirical"),
            curvature.chunked_gauss_newton(chunked, params, part),
        ):
            assert op.positive_semidefinite is expected
    weight = jnp.float32(np.r_[np.ones(7), -0.5])
    op = curvature.gauss_newton(apply_fn, SHANNON, params, cljax.Batch(batch.inputs, batch.targets, weight))
    assert np.isfinite(spectral.trace(op, KEY, max_products=30).mean)  # xtrace
