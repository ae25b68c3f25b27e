"""Exchangeable diagonals: repeated probes, the estimator as published, products, memory, stops and derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import matfree.stochtrace
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from cljax import curvature, spectral, tree
from cljax.spectral.rounds import probe_like
from tests.oracles import dense_hessian, flat, tolerance
from tests.problems import problem
from tests.test_lanczos import DRIVERS, operator, random_symmetric
from tests.test_trace import SPECTRA, Counter, N

KEY = jax.random.key(0)


def probes(key, num, n):
    """(n, num): the signs that a run draws, in a vector that is one array."""
    probe_key = jax.random.split(key, 1)[0]
    return np.stack([np.asarray(probe_like(probe_key, i, jnp.zeros(n), "rademacher")) for i in range(num)], axis=1)


def by_definition(matrix, omega):
    """Leave each probe out, find the range of the others anew, estimate, average."""
    found, identity = [], np.eye(len(matrix))
    for i, z in enumerate(omega.T):
        left, values, _ = np.linalg.svd(matrix @ np.delete(omega, i, 1), full_matrices=False)
        Q = left[:, values > 1e-12 * values.max()] if values.size and values.max() > 0 else left[:, :0]
        P = Q @ Q.T
        known = np.diag(P @ matrix + matrix @ P - P @ matrix @ P)
        found.append(known + z * ((identity - P) @ matrix @ (identity - P) @ z))
    return np.mean(found, axis=0)


@partial(jax.jit, static_argnames=("num", "method", "products"))
def diagonals(op, seed, num, method, products, tol=None):
    """Estimates for many keys, compiled once for all matrices."""
    run = partial(spectral.diagonal, op, method=method, max_products=products, tol=tol)
    keys = jax.random.split(jax.random.key(seed), num)
    return jax.lax.map(run, keys, batch_size=None if tol is not None else 50)


def test_probes_that_repeat_each_other(x64):
    """In 4 dimensions there are 8 vectors of signs up to a sign: of 4 probes two are often the same."""
    matrix, met = random_symmetric([3.0, -1.0, 2.0, 0.5]), set()
    for seed in range(30):
        key = jax.random.key(seed)
        omega = probes(key, 4, 4)
        rank = np.linalg.matrix_rank(omega)
        met.add(int(rank))
        found = spectral.diagonal(
            operator(matrix, jnp.float64), key, method="xdiag", max_products=8, driver="host"
        ).mean
        expected = np.diag(matrix) if rank == 4 else by_definition(matrix, omega)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert {3, 4} <= met


@pytest.mark.parametrize(("name", "factor"), [("exponential", 30), ("polynomial", 20), ("outliers", 1.5)])
def test_better_where_the_spectrum_falls(name, factor):
    """At equal products than signs alone, and than the estimator as published, whose sample is one-sided."""
    matrix = random_symmetric(SPECTRA[name])
    op, exact = operator(matrix), np.diag(matrix)

    def rms(found):
        return np.sqrt(np.mean((np.asarray(found, np.float64) - exact) ** 2))

    ours = rms(diagonals(op, 1, 50, "xdiag", 40).mean)
    assert ours * factor <= rms(diagonals(op, 1, 50, "hutchinson", 40).mean)
    sampler = matfree.stochtrace.sampler_signs(jnp.zeros(N, jnp.float32), num=20)
    theirs = matfree.stochtrace.estimator_leave_one_out(matfree.stochtrace.leave_one_out_xdiag(), sampler)
    product = op.linearize()
    with jax.numpy_rank_promotion("allow"):
        published = jax.jit(jax.vmap(lambda key: theirs(product, key)))(jax.random.split(KEY, 50))
    assert ours <= 0.85 * rms(published)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "values", [np.r_[3.0, np.zeros(N - 1)], np.r_[2.0, -2.0, 1.0, np.zeros(N - 3)], np.zeros(N)], ids=["1", "3", "0"]
)
@DRIVERS
def test_low_ranks_are_exact(values, driver, dtype):
    matrix = random_symmetric(values)
    with jax.enable_x64(dtype == jnp.float64):
        found = spectral.diagonal(operator(matrix, dtype), KEY, method="xdiag", max_products=24, driver=driver)
    assert found.mean.dtype == dtype
    slack = tolerance(dtype, N, np.abs(values).sum())
    np.testing.assert_allclose(found.mean, np.diag(matrix), rtol=0, atol=slack)
    assert np.max(np.asarray(found.standard_error)) <= slack


def test_all_products_are_exact_and_structures_stay(x64):
    case = problem("nested-scalar")
    op = curvature.hessian(case.objective, case.params, case.batch)
    dense = dense_hessian(case.objective, case.params, case.batch)
    found = spectral.diagonal(op, KEY, method="xdiag", max_products=10 * len(dense))
    assert jax.tree.structure(found.mean) == jax.tree.structure(found.standard_error) == jax.tree.structure(case.params)
    assert found.num_products == 2 * len(dense)
    np.testing.assert_allclose(flat(found.mean), np.diag(dense), rtol=0, atol=1e-9 * np.abs(dense).max())


def test_bfloat16():
    matrix = random_symmetric(SPECTRA["outliers"])
    found = spectral.diagonal(operator(matrix, jnp.bfloat16), KEY, method="xdiag", max_products=60)
    assert found.mean.dtype == found.standard_error.dtype == jnp.float32
    off = np.abs(np.asarray(found.mean) - np.diag(matrix))
    assert np.all(off <= 4.5 * np.asarray(found.standard_error) + tolerance(jnp.bfloat16, N, 10.0))


@DRIVERS
def test_products_are_counted_and_a_tolerance_stops(driver):
    counter = Counter()
    matrix = jnp.asarray(random_symmetric(SPECTRA["exponential"]), jnp.float32)
    op = curvature.FunctionOperator(counter, matrix[0], matrix)
    for method, each in (("xdiag", 2), ("hutchinson", 1)):
        for tol, most in ((None, 13), (0.3, 400)):
            counter.products = 0
            found = spectral.diagonal(op, KEY, method=method, tol=tol, max_products=most, driver=driver)
            jax.effects_barrier()
            assert counter.products == found.num_products == each * found.num_probes
            assert found.num_products < 400
            assert bool(found.converged) == (tol is not None)
            if tol is None:
                assert found.num_products == (12 if method == "xdiag" else 13)
            else:
                assert found.num_probes >= 10
                assert tree.norm(found.standard_error) <= tol * tree.norm(found.mean)


def test_stops_do_not_come_by_luck():
    matrix = random_symmetric(SPECTRA["outliers"] + 0.4)
    found = diagonals(operator(matrix), 1, 50, "xdiag", 120, 0.2)
    off = np.linalg.norm(np.asarray(found.mean) - np.diag(matrix), axis=1) / np.linalg.norm(np.diag(matrix))
    assert found.converged.all()
    assert off.max() <= 2 * 0.2


def test_gradients_are_unbiased(x64):
    case = problem("logistic")
    x, unravel = ravel_pytree(case.params)
    weights = jnp.cos(jnp.arange(x.size))

    def exact(x):
        return weights @ jnp.diag(jax.hessian(lambda y: case.objective(unravel(y), case.batch))(x))

    def estimate(x, key):
        op = curvature.hessian(case.objective, unravel(x), case.batch)
        return weights @ ravel_pytree(spectral.diagonal(op, key, method="xdiag", tol=0.5, max_products=6).mean)[0]

    keys = jax.random.split(KEY, 200)
    gradients = jax.jit(lambda x, keys: jax.lax.map(lambda k: jax.grad(estimate)(x, k), keys))(x, keys)
    error = gradients.std(0, ddof=1) / np.sqrt(len(keys))
    assert np.all(np.abs(gradients.mean(0) - jax.grad(exact)(x)) <= 4.5 * error + 1e-12)


@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
def test_the_derivative_along_the_operator_is_the_mean(method, x64):
    """The mean is linear in the operator where all vectors are held fixed."""
    matrix = jnp.asarray(random_symmetric(SPECTRA["outliers"]))

    def mean(factor):
        return spectral.diagonal(operator(factor * matrix, jnp.float64), KEY, method=method, max_products=16).mean

    value, derivative = jax.jvp(mean, (1.0,), (1.0,))
    np.testing.assert_allclose(derivative, value, rtol=0, atol=tolerance(jnp.float64, N, 100.0))


def test_auto_depends_on_the_memory_of_the_bases():
    few, many = (curvature.FunctionOperator(lambda v: v, jax.ShapeDtypeStruct((n,), jnp.float32)) for n in (100, 10**8))
    assert spectral.diagonal(few, KEY, method="auto", max_products=20).num_probes == 10
    run = jax.jit(lambda key: spectral.diagonal(many, key, method="auto", max_products=20).mean)
    assert "10x100000000" not in run.lower(KEY).as_text()
    assert (
        spectral.diagonal(few, KEY, method="auto", max_products=3).num_probes == 3
    )  # two probes are needed for an error


def test_memory():
    n = 100_000
    op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(n), jnp.ones(n))
    run = jax.jit(lambda op, key: spectral.diagonal(op, key, method="xdiag", max_products=80))
    assert run.lower(op, KEY).compile().memory_analysis().temp_size_in_bytes <= 1.35 * 80 * 4 * n
