"""Small matrices of Krylov runs: NumPy's arithmetic on the host against the compiled one and dense algebra."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import spectral
from cljax.spectral.driver import run_krylov
from cljax.spectral.extremes import _finish, cold_goal
from cljax.spectral.goal import Goal, judge, surely_open
from cljax.spectral.host_numbers import lies_near, numbers_on_host
from cljax.spectral.projected import bordered, eigh, safe_norms
from cljax.spectral.restart import numbers_compressed
from cljax.spectral.ritz import projected_eigh, ritz_pairs
from cljax.spectral.rules import _rule
from cljax.spectral.turn import numbers_turned, reflection
from tests.oracles import eps
from tests.test_lanczos import operator, random_symmetric

MATRIX = random_symmetric(np.linspace(-1, 2, 40)).astype(np.float32)
SIZES = [(2, 1), (3, 0), (0, 2)]


def state_of(width, num_steps=9):
    vectors = jax.random.normal(jax.random.key(0), (width, 40))
    return run_krylov("compiled", operator(MATRIX), vectors, jax.random.key(1), num_steps)[0]


def goal_of(num_top, num_bottom, warm):
    goal = cold_goal(1e-3, jnp.zeros(40), num_top, num_bottom, "value", num_cold=1)
    guards = (num_top > 0) + (num_bottom > 0)
    previous = jnp.linspace(-0.9, 1.9, num_top + num_bottom)
    return dataclasses.replace(goal, warm=jnp.array(warm), kept=jnp.array(warm), previous=previous, num_guards=guards)


def same(host, device, bound):
    """Equal up to ``bound``, and to the sign of vectors, which are told by their length here."""
    for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.abs(a), np.abs(b)[..., : a.shape[-1]] if a.ndim else np.abs(b), atol=bound)


@pytest.mark.parametrize(("num_top", "num_bottom"), SIZES)
@pytest.mark.parametrize("width", [1, 4])
def test_ritz_pairs(width, num_top, num_bottom):
    state = state_of(width)
    uneven = 1e-3 * jax.random.normal(jax.random.key(2), (9, 9))  # products that are not symmetric
    state = dataclasses.replace(state, matrix=state.matrix.at[:9, :9].add(uneven))
    numbers = numbers_on_host(state)
    found, expected = (ritz_pairs(s, num_top, num_bottom) for s in (numbers, state))
    same(found, expected, 2e3 * eps(jnp.float32))
    used = int(state.used)
    K = np.asarray(state.matrix, np.float64)[:used, :used]
    exact = np.linalg.eigvalsh((K + K.T) / 2)
    wanted = np.concatenate([exact[:num_bottom], exact[used - num_top :]])
    np.testing.assert_allclose(found.values, wanted, atol=32 * eps(jnp.float32))
    values, vectors, norm = projected_eigh(numbers)
    assert (values[used:] > 2 * norm).all()
    assert np.array_equal(vectors[used:, :used], np.zeros((width, used)))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("num_top", "num_bottom"), SIZES)
@pytest.mark.parametrize("width", [1, 4, 6])
def test_judgement(width, num_top, num_bottom, warm):
    state, goal = state_of(width), goal_of(num_top, num_bottom, warm)
    numbers = numbers_on_host(state)
    expected, jumped, done = jax.jit(judge)(state, goal, jnp.array(False))
    direction, jumped_too, done_too = judge(numbers, goal.on_host(), np.bool_(False))
    assert bool(jumped) == jumped_too
    assert bool(done) == done_too
    lengths = np.linalg.norm(direction), np.linalg.norm(expected)
    if min(lengths) > 0:
        direction, expected = direction / lengths[0], np.asarray(expected) / lengths[1]
    np.testing.assert_allclose(direction, expected, atol=2e4 * eps(jnp.float32))
    same(
        _finish(numbers, goal.on_host(), np.bool_(False)),
        _finish(state, goal, jnp.array(False)),
        2e3 * eps(jnp.float32),
    )


@pytest.mark.parametrize(
    "direction", [[0.3, -2.0, 1.0, 0.5], [0.0] * 4, [np.nan] * 4, [np.inf, 1, 0, 0], [-1.0, 0, 0, 0]]
)
def test_rotations(direction):
    state = state_of(4)
    with np.errstate(all="ignore"):
        found, expected = (reflection(np.float32(direction)), reflection(jnp.float32(np.array(direction))))
    np.testing.assert_allclose(found, expected, atol=8 * eps(jnp.float32))
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=8 * eps(jnp.float32))
    length = np.linalg.norm(direction)
    if np.isfinite(length) and length > 0:
        assert abs(found[0] @ direction) == pytest.approx(length, rel=1e-6)
    numbers = numbers_on_host(state)
    before = numbers.matrix.copy()
    same(numbers_turned(numbers, found, 0.25).matrix, numbers_turned(state, expected, 0.25).matrix, 1e-6)
    same(numbers_turned(numbers, found, 0.25).rounding, numbers_turned(state, expected, 0.25).rounding, 1e-6)
    assert np.array_equal(numbers.matrix, before)


@pytest.mark.parametrize("used", [9, 5])
def test_restarts(used):
    state = dataclasses.replace(state_of(2), basis=None, vector=None, used=jnp.int32(used))
    numbers = jax.tree.map(np.asarray, state)
    found, expected = (numbers_compressed(s, 6, 1) for s in (numbers, state))  # seven of five: all are kept
    same(found, expected, 1e-4)
    assert int(found[0].used) == min(used, 7)
    if used < 7:
        assert np.array_equal(found[0].matrix, state.matrix)
        assert np.array_equal(found[1], np.eye(state.capacity))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad):
    state = state_of(1)
    state = dataclasses.replace(state, matrix=state.matrix.at[2, 2].set(bad))
    with np.errstate(all="ignore"):
        for numbers in (state, numbers_on_host(state)):
            values, vectors, _ = projected_eigh(numbers)
            assert np.isnan(values).all()
            assert np.isnan(vectors).all()
            done = judge(numbers, goal_of(2, 1, False).on_host(), np.bool_(False))[2]
            assert done
    assert np.isnan(eigh(np.full((2, 2), bad))[0]).all()


def test_the_zero_operator():
    state = run_krylov("compiled", operator(0 * MATRIX), jnp.ones((1, 40)), jax.random.key(1), 5)[0]
    found, expected = (ritz_pairs(s, 1, 1) for s in (numbers_on_host(state), state))
    same(found.values, expected.values, 0)
    same(found.residual_norms, expected.residual_norms, 0)


def test_norms_near_the_ends_of_the_range():
    for scale in (1e-30, 1.0, 1e30):
        matrix = np.float32(scale) * np.array([[3, 0, 1], [4, 0, 1]], np.float32)
        with np.errstate(all="ignore"):
            found = safe_norms(matrix)
        np.testing.assert_allclose(found, scale * np.array([5, 0, 2**0.5]), rtol=4 * eps(jnp.float32))


def test_eigenvectors_have_the_signs_of_the_compiled_ones():
    """Warm starts depend on them: both loops take the same steps."""
    for size in (2, 5, 9):
        matrix = np.random.default_rng(size).standard_normal((size, size)).astype(np.float32)
        found, expected = eigh(matrix + matrix.T), jnp.linalg.eigh(matrix + matrix.T)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=64 * eps(jnp.float32))


def test_bordered_matrix():
    diagonal, sides, block = np.float32([1, 2]), np.float32([[3, 4], [5, 6], [7, 8]]), np.eye(3, dtype=np.float32)
    assert np.array_equal(bordered(diagonal, sides, block), bordered(*map(jnp.asarray, (diagonal, sides, block))))


def test_only_one_cpu_device_is_near():
    state = state_of(1)
    assert lies_near(state)
    several = jax.device_put(state.vector, jax.sharding.NamedSharding(jax.make_mesh((2,), ("x",)), jax.P()))
    assert not lies_near(dataclasses.replace(state, vector=several))
    seen = []
    jax.jit(lambda s: seen.append(lies_near(s)))(state)
    assert seen == [False]


def test_results_lie_where_the_operator_does():
    device = jax.devices("cpu")[1]
    matrix = jax.device_put(jnp.asarray(MATRIX), device)
    for place, driver in ((device, "host"), (device, "compiled")):
        op = operator(matrix)
        start = spectral.extreme_eigenpairs(op, jax.random.key(0), driver=driver)
        for pairs in (start, spectral.extreme_eigenpairs(op, jax.random.key(0), start=start, driver=driver)):
            assert {device for leaf in jax.tree.leaves(pairs) for device in leaf.devices()} == {place}
        density = spectral.spectral_density(op, jax.random.key(0), num_probes=2, num_steps=5, driver=driver)
        assert {device for leaf in jax.tree.leaves(density) for device in leaf.devices()} == {place}


@pytest.mark.parametrize("scale", [1e38, np.nan])
@pytest.mark.parametrize("memory", [spectral.Memory(), spectral.Memory(offload=True)])
def test_numbers_beyond_the_range_are_no_values(memory, scale):
    """Four times the norm is no number any more; warnings are errors here."""
    op = operator(np.float32(scale) * np.diag(np.linspace(-1, 2, 40)).astype(np.float32))
    with np.errstate(all="warn"):
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_bottom=1, driver="host", memory=memory)
    assert np.isnan(pairs.values).all()
    assert (pairs.status == spectral.Status.NOT_FINITE).all()


def test_rules_of_a_run():
    state = state_of(1)
    for found, expected in zip(_rule(numbers_on_host(state), 9), _rule(state, 9), strict=True):
        np.testing.assert_allclose(found, expected, atol=32 * eps(jnp.float32))


@pytest.mark.parametrize("memory", [spectral.Memory(), spectral.Memory(offload=True), "compiled"])
def test_small_spaces_have_no_eigenvalue_of_their_own(memory):
    """A random vector may lie almost in the basis; where it does not quite, it is the direction that is missing."""
    options = {"driver": "compiled"} if memory == "compiled" else {"driver": "host", "memory": memory}
    for size, width in ((2, 1), (3, 2), (3, 1), (4, 2)):
        op = operator(np.eye(size, dtype=np.float32))
        for key in range(6):
            pairs = spectral.extreme_eigenpairs(op, jax.random.key(key), num_bottom=1, block_size=width, **options)
            np.testing.assert_allclose(pairs.values, 1, atol=64 * eps(jnp.float32))


def test_a_goal_on_the_host():
    goal = goal_of(2, 1, True).on_host()
    assert isinstance(goal, Goal)
    assert all(isinstance(x, np.ndarray | np.generic) for x in jax.tree.leaves(goal))


@pytest.mark.parametrize("criterion", ["residual", "value"])
@pytest.mark.parametrize("certify", [True, False])
@pytest.mark.parametrize(("num_top", "num_bottom"), SIZES)
def test_a_look_ended_early_is_one_that_finds_nothing(num_top, num_bottom, certify, criterion, monkeypatch):
    early, done = [], []
    for num_steps in (2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 39, 40):
        numbers = numbers_on_host(state_of(1, num_steps))
        for tol in (1e-1, 1e-3, 1e-5):
            goal = cold_goal(tol, jnp.zeros(40), num_top, num_bottom, criterion, num_cold=1, certify=certify).on_host()
            early.append(surely_open(numbers, goal))
            with monkeypatch.context() as patch:
                patch.setattr("cljax.spectral.goal.surely_open", lambda *_: False)
                done.append(bool(judge(numbers, goal, np.bool_(False))[2]))
            assert not (early[-1] and done[-1])
    assert any(done)
    if not certify:  # then nothing but what the early look knows decides, once there are products enough
        assert sum(early) + sum(done) >= 0.8 * len(done)


def test_a_look_at_what_is_not_finite_ends_a_run():
    state = dataclasses.replace(state_of(1), matrix=jnp.full((10, 10), jnp.nan))
    goal = cold_goal(1e-3, jnp.zeros(40), 2, 0, "residual", num_cold=1).on_host()
    assert not surely_open(numbers_on_host(state), goal)
    assert judge(numbers_on_host(state), goal, np.bool_(False))[2]
