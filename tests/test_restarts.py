"""Bounded bases, blocks, warm starts and guards: the same eigenvalues by other ways, and honest status."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral, tree
from cljax.spectral.driver import run_krylov
from cljax.spectral.krylov import krylov_start
from cljax.spectral.restart import compress
from cljax.spectral.ritz import ritz_pairs
from cljax.spectral.turn import krylov_turn
from tests.oracles import eps
from tests.test_extremes import check
from tests.test_lanczos import DRIVERS, operator, random_symmetric


def dense_state(state):
    """The basis and the projected operator of a state as matrices, columns in the order of the basis."""
    return np.asarray(tree.whole(state.basis)).T, np.asarray(state.matrix), int(state.used)


def relation_error(state, matrix):
    """Greatest entry of A Q − Q K over the used columns."""
    Q, K, used = dense_state(state)
    return np.abs(matrix @ Q[:, :used] - Q @ K[:, :used]).max()


@pytest.mark.parametrize("width", [1, 3])
def test_relation_holds_from_any_number_of_start_vectors(width):
    matrix = random_symmetric(np.linspace(-1, 2, 40)).astype(np.float32)
    vectors = jax.random.normal(jax.random.key(0), (width, 40))
    state, _ = run_krylov("host", operator(matrix), vectors, jax.random.key(1), 12)
    bound = 8 * eps(jnp.float32) * np.sqrt(40) * 12
    assert relation_error(state, matrix) <= bound * 2
    Q = dense_state(state)[0][:, : 12 + width]
    assert np.abs(Q.T @ Q - np.eye(12 + width)).max() <= bound


def test_turning_and_compressing_keep_the_relation():
    matrix = random_symmetric(np.linspace(-1, 2, 40)).astype(np.float32)
    vectors = jax.random.normal(jax.random.key(0), (3, 40))
    state, _ = run_krylov("host", operator(matrix), vectors, jax.random.key(1), 12)
    bound = 16 * eps(jnp.float32) * np.sqrt(40) * 12
    turned = krylov_turn(state, jnp.array([0.3, -2.0, 1.0]))
    assert relation_error(turned, matrix) <= bound
    before = dense_state(state)[0].T[12:15]
    expected = np.array([0.3, -2.0, 1.0]) @ before / np.linalg.norm([0.3, -2.0, 1.0])
    assert np.abs(np.abs(np.asarray(tree.from_rows(turned.vector)) @ expected) - 1) <= bound
    pairs = ritz_pairs(turned, 3, 2)
    less = compress(turned, 3, 2)
    assert int(less.used) == 5
    assert relation_error(less, matrix) <= bound
    again = ritz_pairs(less, 3, 2)
    np.testing.assert_allclose(again.values, pairs.values, atol=bound)
    np.testing.assert_allclose(again.residual_norms, pairs.residual_norms, atol=bound)


BOUNDED = {
    "host": ({"basis_size": 12}, "host"),
    "compiled": ({"basis_size": 12}, "compiled"),
    "offload": ({"basis_size": 12, "offload": True}, "host"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_restarts_forget_nothing_of_products_that_are_not_symmetric(name):
    """The residuals are those of the matrix as it is, and the search ends where that of all vectors does."""
    spectrum = np.r_[-2.0, np.linspace(-1, 1, 97), 2.4, 2.5]
    noise = np.random.default_rng(1).standard_normal((100, 100)) / 10
    matrix = (random_symmetric(spectrum) + 2e-3 * (noise - noise.T)).astype(np.float32)
    memory, driver = BOUNDED[name]
    options = {"num_top": 2, "num_bottom": 1, "tol": 1e-4, "max_products": 60}
    found, of_all = (
        spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), driver=driver, memory=memory, **options)
        for memory in (spectral.Memory(**memory), spectral.Memory())
    )
    assert (found.status == spectral.Status.BUDGET).all()
    assert (of_all.status == spectral.Status.BUDGET).all()
    vectors, values = (np.asarray(x, np.float64) for x in (found.vectors, found.values))
    measured = np.linalg.norm(vectors @ matrix.T.astype(np.float64) - values[:, None] * vectors, axis=1)
    # what several restarts dropped is taken for independent, and what of it comes back counts twice
    assert (found.residual_norms <= 2 * measured).all()
    assert (found.residual_norms >= 0.7 * measured).all()


@pytest.mark.parametrize("scale", [0, 1e-5, 2e-4])
def test_the_last_look_is_what_is_told(scale):
    """Both loops end with the state that they judged, not with one compressed once more."""
    spectrum = np.r_[-2.0, np.linspace(-1, 1, 97), 2.4, 2.5]
    noise = np.random.default_rng(1).standard_normal((100, 100)) / 10
    op = operator((random_symmetric(spectrum) + scale * (noise - noise.T)).astype(np.float32))
    options = {"num_top": 2, "num_bottom": 1, "tol": 1e-3, "memory": spectral.Memory(basis_size=14)}
    host, compiled = (
        spectral.extreme_eigenpairs(op, jax.random.key(0), driver=driver, **options) for driver in ("host", "compiled")
    )
    assert host.num_products == compiled.num_products < 100
    np.testing.assert_array_equal(host.status, compiled.status)
    assert compiled.converged.all()
    np.testing.assert_allclose(
        compiled.residual_norms, host.residual_norms, rtol=1e-3, atol=32 * eps(jnp.float32) * 2.5
    )


def test_turn_by_nothing_and_by_nan_changes_nothing():
    state = krylov_start(jax.random.normal(jax.random.key(0), (3, 9)), jax.random.key(1), 6, True)
    for direction in (jnp.zeros(3), jnp.array([1.0, jnp.nan, 0.0])):
        assert np.array_equal(krylov_turn(state, direction).basis, state.basis)


@DRIVERS
def test_a_small_basis_finds_the_same(driver):
    matrix = random_symmetric(np.r_[np.linspace(-1, 1, 148), 1.3, -1.4])
    pairs = spectral.extreme_eigenpairs(
        operator(matrix),
        jax.random.key(0),
        num_top=2,
        num_bottom=1,
        tol=1e-4,
        max_products=200,
        memory=spectral.Memory(basis_size=14),
        driver=driver,
    )
    check(pairs, matrix, 2, 1)
    assert pairs.num_products > 14


@DRIVERS
def test_a_run_that_ends_before_its_basis_is_full_has_no_ghosts(driver):
    matrix = random_symmetric(np.r_[9.0, 7.0, np.linspace(-0.01, 0.01, 96), -6.0, -8.0])
    pairs = spectral.extreme_eigenpairs(
        operator(matrix),
        jax.random.key(0),
        num_top=2,
        num_bottom=2,
        memory=spectral.Memory(basis_size=40),
        driver=driver,
    )
    assert pairs.num_products < 16  # fewer than a restart would keep
    check(pairs, matrix, 2, 2)


def test_a_small_basis_and_few_products_end_with_status_budget():
    matrix = random_symmetric(np.linspace(-1, 1, 150))
    pairs = spectral.extreme_eigenpairs(
        operator(matrix), jax.random.key(0), num_top=2, tol=1e-6, max_products=40, memory=spectral.Memory(basis_size=12)
    )
    assert pairs.num_products == 40
    assert set(np.asarray(pairs.status)) == {spectral.Status.BUDGET}
    exact = np.linalg.eigvalsh(matrix)
    assert all(np.abs(exact - value).min() <= residual for value, residual in zip(pairs.values, pairs.residual_norms))


def test_a_block_finds_an_eigenvalue_as_often_as_it_occurs():
    matrix = random_symmetric(np.r_[5.0, 5.0, 5.0, np.linspace(-1, 1, 97)])
    pairs = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=3, tol=1e-5, block_size=3)
    check(pairs, matrix, 3, 0)
    assert pairs.block_size == 3


def test_value_errors_hold_where_the_gap_is_known():
    matrix = random_symmetric(np.r_[4.0, 3.0, np.linspace(-1, 1, 98)])
    cold = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=1)
    noise = random_symmetric(np.linspace(-0.1, 0.1, 100), seed=2)
    moved = matrix + noise
    warm = spectral.extreme_eigenpairs(operator(moved), jax.random.key(1), num_top=1, start=cold, criterion="value")
    error = abs(float(warm.values[0]) - np.linalg.eigvalsh(moved)[-1])
    rounding = 32 * eps(jnp.float32) * 4
    assert error <= float(warm.value_errors[0]) + rounding
    assert warm.value_errors[0] <= 1e-3 * warm.values[0]
    assert warm.value_errors[0] <= warm.residual_norms[0]
    assert warm.num_products <= 5
    assert not warm.jumped
    fully = spectral.extreme_eigenpairs(operator(moved), jax.random.key(1), num_top=1, start=cold)
    assert warm.num_products < fully.num_products


@pytest.mark.parametrize("criterion", ["residual", "value"])
def test_a_jump_is_noticed_and_costs_a_cold_start(criterion):
    rng = np.random.default_rng(0)
    base = random_symmetric(np.r_[10.0, 8.0, rng.uniform(-1, 1, 198)])
    cold = spectral.extreme_eigenpairs(operator(base), jax.random.key(0), num_top=2)
    other = random_symmetric(np.r_[10.0, 8.0, rng.uniform(-1, 1, 198)], seed=5)
    pairs = spectral.extreme_eigenpairs(operator(other), jax.random.key(1), num_top=2, start=cold, criterion=criterion)
    assert pairs.jumped
    check(pairs, other, 2, 0, warm=True)


def test_vectors_that_are_eigenvectors_still_prove_nothing_after_a_jump():
    """Of ten times the operator, a new top eigenvalue beside: residuals are rounding at once, wherever the top is."""
    base = np.append(np.linspace(0, 1, 999), 2)
    risen = base.copy()
    risen[500] = 2.5
    ops = [curvature.FunctionOperator(jnp.multiply, *[jnp.asarray(d, jnp.float32)] * 2) for d in (base, 10 * risen)]
    keys = jax.random.split(jax.random.key(0), (5, 2))
    for first, second in keys:
        start = spectral.extreme_eigenpairs(ops[0], first)
        pairs = spectral.extreme_eigenpairs(ops[1], second, start=start)
        assert pairs.jumped
        assert pairs.accurate.all()
        assert not pairs.converged.any()


def test_the_check_direction_shows_what_is_new():
    """A new top eigenvector, orthogonal to all kept vectors, of which the check direction has a tenth."""
    rng = np.random.default_rng(0)
    base = random_symmetric(np.r_[10.0, 8.0, rng.uniform(-1, 1, 998)])
    start = spectral.extreme_eigenpairs(operator(base), jax.random.key(0), num_top=1)
    hidden = rng.standard_normal(1000)
    kept = np.concatenate([np.asarray(start.vectors), np.asarray(start.guards)])
    hidden -= kept.T @ (kept @ hidden)
    hidden /= np.linalg.norm(hidden)
    risen = base + 15 * np.outer(hidden, hidden)
    noise = rng.standard_normal(1000)
    direction = 0.1 * hidden + noise / np.linalg.norm(noise)
    pairs = spectral.extreme_eigenpairs(
        operator(risen), jax.random.key(1), start=start, check=jnp.asarray(direction, jnp.float32), tol=1e-4
    )
    check(pairs, risen, 1, 0, warm=True)


def test_other_numbers_of_pairs_start_from_what_there_is():
    matrix = random_symmetric(np.r_[10.0, 8.0, 6.0, np.linspace(-1, 1, 97)])
    one = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), num_top=1)
    check(
        spectral.extreme_eigenpairs(operator(matrix), jax.random.key(1), num_top=3, start=one), matrix, 3, 0, warm=True
    )


def test_an_operator_that_is_not_symmetric_is_told():
    matrix = random_symmetric(np.linspace(-1, 1, 30))
    good = spectral.extreme_eigenpairs(operator(matrix), jax.random.key(0), max_products=20)
    assert good.asymmetry <= 8 * eps(jnp.float32) * 30
    skew = np.triu(np.full((30, 30), 0.01), 1)
    bad = spectral.extreme_eigenpairs(operator(matrix + skew - skew.T), jax.random.key(0), max_products=20)
    assert bad.asymmetry > 1e-3
    assert not bad.converged[0]
