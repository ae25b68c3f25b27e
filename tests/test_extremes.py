"""Extreme eigenpairs against numpy and scipy, and the honesty of their status."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import eigsh

from cljax import curvature, spectral
from cljax.spectral import Status
from cljax.spectral.ritz import _leading_eigh
from tests.oracles import eps
from tests.test_lanczos import DRIVERS, MATRICES, operator, random_symmetric


def check(pairs, matrix, num_top, num_bottom, warm=False):
    """Every value is within its residual of a different eigenvalue, and they are the extreme ones."""
    exact = np.linalg.eigvalsh(matrix)
    norm = np.abs(exact).max()
    wanted = np.r_[exact[:num_bottom], exact[len(exact) - num_top :]]
    slack = np.asarray(pairs.residual_norms) + 8 * eps(jnp.float32) * norm * np.sqrt(len(matrix))
    assert np.all(np.abs(np.asarray(pairs.values) - wanted) <= slack)
    assert (pairs.accurate if warm else pairs.converged).all()
    assert pairs.orthogonality <= 8 * eps(jnp.float32) * len(matrix)
    V = np.asarray(pairs.vectors).T
    residual = np.linalg.norm(matrix @ V - V * np.asarray(pairs.values), axis=0)
    np.testing.assert_allclose(
        pairs.residual_norms, residual, rtol=1e-2, atol=8 * eps(jnp.float32) * norm * len(matrix)
    )


@DRIVERS
@pytest.mark.parametrize("name", ["path", "conditioned", "low-rank", "ties"])
def test_both_ends(name, driver):
    matrix = MATRICES[name].astype(np.float32).astype(float)
    tops, bottoms = (1, 0) if name == "conditioned" else (2, 1)
    op = operator(matrix)
    pairs = spectral.extreme_eigenpairs(
        op, jax.random.key(0), num_top=tops, num_bottom=bottoms, max_products=63, driver=driver
    )
    check(pairs, matrix, tops, bottoms)


def test_agrees_with_arpack():
    matrix = random_symmetric(np.random.default_rng(1).standard_normal(120))
    pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=2, num_bottom=2, tol=1e-5)
    expected = np.sort(eigsh(matrix, k=4, which="BE", return_eigenvectors=False))
    np.testing.assert_allclose(pairs.values, expected, atol=64 * eps(jnp.float32) * np.abs(expected).max())


def test_spiked_model_has_the_published_outliers():
    n, spikes = 1000, np.array([5.0, 4.0, 3.0])
    z = np.random.default_rng(0).standard_normal((n, n))
    matrix = z @ z.T / n + np.diag(np.r_[spikes, np.zeros(n - 3)])
    pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=3, tol=1e-4)
    # an outlier fluctuates with standard deviation of order sqrt(2 / n) times its size; four of them
    np.testing.assert_allclose(pairs.values[::-1], spikes**2 / (spikes - 1), rtol=4 * np.sqrt(2 / n))


@DRIVERS
def test_whole_space(driver):
    matrix = random_symmetric([3.0, -1.0, 2.0, 0.5])
    pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=3, num_bottom=1, driver=driver)
    check(pairs, matrix, 3, 1)
    assert pairs.num_products == 4


@DRIVERS
@pytest.mark.parametrize("matrix", [np.zeros((6, 6)), np.eye(6), -np.eye(6)], ids=["zero", "one", "minus one"])
def test_one_eigenvalue_many_times(matrix, driver):
    pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=2, num_bottom=1, driver=driver)
    check(pairs, matrix, 2, 1)


def test_no_ghosts_in_single_precision_after_200_steps():
    matrix = np.diag(np.r_[100.0, 50.0, np.linspace(0, 1, 498)])
    op = operator(matrix)
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=4, tol=1e-7, max_products=204)
    np.testing.assert_allclose(pairs.values[2:], [50, 100], rtol=8 * eps(jnp.float32))
    assert np.all(pairs.values[:2] <= 1 + 1e-4)
    assert pairs.orthogonality <= 200 * eps(jnp.float32)


@pytest.mark.parametrize("used", [5, 16, 17, 40, 100])
def test_leading_blocks_have_the_pairs_of_the_matrix(used):
    matrix = np.diag(np.full(100, 50.0))
    matrix[:used, :used] = random_symmetric(np.linspace(-3, 3, used))
    values, vectors = _leading_eigh(jnp.asarray(matrix, jnp.float32), jnp.int32(used))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=100 * eps(jnp.float32) * 50)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=400 * eps(jnp.float32) * 50)


@DRIVERS
def test_uncertified_runs_end_at_the_tolerance(driver):
    matrix = random_symmetric(np.r_[9.0, 7.0, np.linspace(-3, 3, 198)])
    took = []
    for options in ({}, {"certify": False}, {"certify": False, "criterion": "value"}):
        pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=2, driver=driver, **options)
        assert pairs.accurate.all()
        exact = np.linalg.eigvalsh(matrix)[-2:]
        assert np.all(np.abs(pairs.values - exact) <= 1e-3 * exact)
        took.append(int(pairs.num_products))
        if options:
            assert Status.LIKELY in pairs.status
    assert took == sorted(took, reverse=True)
    assert took[0] > took[1] > took[2]


def test_warm_start_saves_products_and_finds_a_new_extreme_vector():
    rng = np.random.default_rng(0)
    base = random_symmetric(np.r_[10.0, 8.0, rng.uniform(-1, 1, 198)])
    noise = random_symmetric(rng.uniform(-1, 1, 200) * 1e-3, seed=1)
    cold = spectral.extreme_eigenpairs(operator(base), jax.random.key(0), num_top=2)
    again = spectral.extreme_eigenpairs(operator(base + noise), jax.random.key(1), num_top=2)
    warm = spectral.extreme_eigenpairs(operator(base + noise), jax.random.key(1), num_top=2, start=cold)
    assert warm.num_products <= again.num_products
    check(warm, base + noise, 2, 0, warm=True)
    hidden = rng.standard_normal(200)
    V = np.asarray(cold.vectors)
    hidden -= V.T @ (V @ hidden)
    hidden /= np.linalg.norm(hidden)
    risen = base + 20 * np.outer(hidden, hidden)
    check(
        spectral.extreme_eigenpairs(operator(risen), jax.random.key(2), num_top=2, start=warm), risen, 2, 0, warm=True
    )


def test_start_that_is_nan_counts_for_nothing():
    op = operator(MATRICES["path"])
    good = spectral.extreme_eigenpairs(op, jax.random.key(0), max_products=61)
    bad = jax.tree.map(lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x, good)
    check(
        spectral.extreme_eigenpairs(op, jax.random.key(0), start=bad, tol=1e-5, max_products=61), MATRICES["path"], 1, 0
    )


@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_nan_gives_nan_and_stops_early(driver):
    pairs = spectral.extreme_eigenpairs(operator(np.full((50, 50), np.nan)), jax.random.key(0), driver=driver)
    assert np.isnan(pairs.values).all()
    assert not pairs.converged.any()
    assert pairs.num_products <= 10


def test_products_are_counted_and_limited():
    calls = []

    def counted(v, matrix):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ v

    matrix = jnp.asarray(np.diag(np.linspace(0, 1, 400)), jnp.float32)
    op = curvature.FunctionOperator(counted, matrix[0], matrix)
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=2, tol=1e-6, max_products=15, driver="host")
    jax.effects_barrier()
    assert pairs.num_products == len(calls) == 15
    assert not pairs.converged.all()
    exact = np.linspace(0, 1, 400)
    assert all(np.abs(exact - value).min() <= residual for value, residual in zip(pairs.values, pairs.residual_norms))


def test_inside_of_jit_and_vmap():
    matrices = jnp.stack([jnp.asarray(MATRICES["path"], jnp.float32) * s for s in (1.0, 2.0)])

    def top(matrix):
        return spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), max_products=61).values

    both = jax.jit(jax.vmap(top))(matrices)
    np.testing.assert_allclose(both[1], 2 * both[0], rtol=64 * eps(jnp.float32))
    np.testing.assert_allclose(both[0], top(matrices[0]), rtol=64 * eps(jnp.float32))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_top": 61}, ValueError, r"num_top \+ num_bottom: expected 1 to 60, the dimension of the operator"),
        ({"num_top": 0}, ValueError, r"num_top \+ num_bottom: expected 1"),
        ({"num_top": -1}, ValueError, "num_top: expected an integer of at least 0"),
        ({"num_top": 1.5}, TypeError, "num_top: expected a static integer"),
        ({"max_products": 3}, ValueError, "max_products: expected an integer of at least 4"),
        ({"memory": spectral.Memory(basis_size=5)}, ValueError, "basis_size: expected at least 6 vectors"),
        ({"tol": None}, TypeError, "tol: expected a relative tolerance between 0 and 1, got None"),
        ({"memory": 20}, TypeError, "memory: expected a spectral.Memory, got int"),
        ({"criterion": "values"}, ValueError, "criterion: expected one of"),
        ({"block_size": 0}, ValueError, "block_size: expected an integer of at least 1"),
        ({"check": jnp.ones(3)}, ValueError, r"check: expected shape \(60,\)"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        spectral.extreme_eigenpairs(operator(MATRICES["path"]), jax.random.key(0), **options)


@DRIVERS
def test_a_cold_run_starts_from_the_check_direction(driver):
    """With the eigenvectors themselves it is soon done; the random half keeps what they are orthogonal to."""
    values = np.r_[np.linspace(0, 1, 397), 1.2, 1.4, 1.6]
    op = operator(np.diag(values))
    direction = jnp.zeros(400).at[-3:].set(1e-20)  # of any length
    options = {"num_top": 3, "criterion": "value", "certify": False, "driver": driver}
    plain, directed = (
        [spectral.extreme_eigenpairs(op, jax.random.key(seed), check=c, **options) for seed in range(5)]
        for c in (None, direction)
    )
    for pairs in (*plain, *directed):
        np.testing.assert_allclose(pairs.values, values[-3:], rtol=1e-3)
    products = [np.median([int(pairs.num_products) for pairs in runs]) for runs in (plain, directed)]
    assert products[1] <= products[0] - 2
    hidden = jnp.ones(400).at[-1].set(0.0)  # its Krylov space has nothing of the greatest eigenvector
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=1, check=hidden, driver=driver)
    np.testing.assert_allclose(pairs.values, values[-1:], rtol=1e-5)


@pytest.mark.parametrize("useless", [0.0, jnp.nan, jnp.inf])
def test_a_check_direction_that_is_none_changes_nothing(useless):
    op = operator(MATRICES["path"])
    n = len(MATRICES["path"])
    found, plain = (spectral.extreme_eigenpairs(op, jax.random.key(0), check=c) for c in (jnp.full(n, useless), None))
    np.testing.assert_array_equal(found.values, plain.values)


def test_a_check_direction_inside_of_transformations():
    matrix = jnp.asarray(MATRICES["path"], jnp.float32)
    op, direction = operator(matrix), jnp.ones(len(matrix))
    exact = np.linalg.eigvalsh(matrix)[-1]
    found = jax.jit(lambda c, tol: spectral.extreme_eigenpairs(op, jax.random.key(0), check=c, tol=tol).values)(
        direction, 1e-4
    )
    np.testing.assert_allclose(found, [exact], rtol=1e-5)

    def top(scale):
        scaled = curvature.FunctionOperator(lambda v, a: a @ v, direction, scale * matrix)
        return spectral.extreme_eigenpairs(scaled, jax.random.key(0), check=scale * direction).values[0]

    np.testing.assert_allclose(jax.grad(top)(1.0), exact, rtol=1e-4)


def test_a_check_direction_of_leaves_of_two_dtypes(x64):
    entries = {"a": jnp.array([1.0, 3.0, 5.0], jnp.float32), "b": jnp.array([2.0, 7.0], jnp.float64)}
    op = curvature.FunctionOperator(lambda v, d: jax.tree.map(jnp.multiply, d, v), entries, entries)
    for block_size in (1, 2):
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), check=entries, block_size=block_size)
        np.testing.assert_allclose(pairs.values, [7], rtol=1e-5)
