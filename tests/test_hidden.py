"""New extreme pairs in directions unlike all kept vectors: how long warm starts miss them, and what they say then."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral, training
from cljax.spectral import Status

NUM, SIZE, TOL = 40, 1000, 1e-3


def scale(v, diagonal):
    return diagonal * v


@partial(jax.jit, static_argnames=("criterion", "count"))
def tracked(before, after, keys, criterion, count):
    """Status of a cold start on each of ``before``; values, status, products of warm ones on ``after``."""

    def one(before, after, key):
        options = {"max_products": 60, "criterion": criterion}
        pairs = spectral.extreme_eigenpairs(curvature.FunctionOperator(scale, before, before), key, **options)
        op = curvature.FunctionOperator(scale, after, after)

        def again(pairs, key):
            pairs = spectral.extreme_eigenpairs(op, key, start=pairs, **options)
            return pairs, (pairs.values[0], pairs.status[0], pairs.num_products)

        return pairs.status[0], jax.lax.scan(again, pairs, jax.random.split(key, count))[1]

    return jax.vmap(one)(before, after, keys)


@pytest.mark.parametrize(
    ("criterion", "gap", "most"),
    [
        ("value", 2.0, [40, 40, 30, 8, 2, 2]),
        ("value", 0.5, [40, 40, 40, 38, 20, 8]),
        ("residual", 2.0, [8, 4, 2, 2, 2, 2]),
        ("residual", 0.5, [36, 8, 2, 2, 2, 2]),
    ],
)
def test_a_new_top_in_a_random_direction(criterion, gap, most):
    """Measured: of 40, wrong with a small error at the first and later warm starts after 2 + gap came up.

    "value": gap 2: 40, 40, 18, 0, 0, 0; gap 0.5: 40, 40, 40, 31, 7, 2. "residual": gap 2: none; gap 0.5: 26, then none.
    A warm start cannot do better at once in so few products; it says TRACKED, not CONVERGED.
    """
    before = np.random.default_rng(0).uniform(0, 1, (NUM, SIZE)).astype(np.float32)
    before[:, 0] = 2
    after = before.copy()
    after[:, 1] = 2 + gap
    keys = jax.random.split(jax.random.key(1), NUM)
    cold, (values, status, products) = tracked(jnp.asarray(before), jnp.asarray(after), keys, criterion, 6)
    assert np.all(cold == Status.CONVERGED)
    wrong = np.abs(values - (2 + gap)) > 2 * TOL * (2 + gap)
    assert not np.any(wrong & (status <= Status.ROUNDING))  # what ``converged`` is
    missed = np.sum(wrong & (status <= Status.TRACKED), axis=0)
    assert np.all(missed <= np.array(most))
    assert np.mean(products) <= 6


def two_parts(params, batch):
    inputs, share = batch
    first, second = (jnp.mean(jnp.log(jnp.cosh(inputs @ params[name]))) for name in "ab")
    return first + share * second


def test_a_separable_model_whose_other_part_takes_over():
    """The kept vector stays an exact eigenvector while the top moves to parameters it does not touch.

    Wrong from 0.95 to 1.3 (by up to 28 %), where no record says ``cold``; right from 1.6 on, and at each cold start.
    """
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((200, 100)) * np.linspace(0.2, 1.5, 100), jnp.float32)
    params = {name: jnp.asarray(0.05 * rng.standard_normal(100), jnp.float32) for name in "ab"}
    errors = {}
    for cold_every in (50, 4):
        tracker = training.Tracker.from_objective(two_parts, num_bottom=0, cold_every=cold_every)
        state = tracker.init(params)
        errors[cold_every] = []
        for step, share in enumerate([0.5, 0.6, 0.8, 0.95, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0]):
            batch = (inputs, jnp.float32(share))
            state, record = tracker.measure(state, params, batch, jax.random.key(step))
            found = record.hessian
            exact = np.linalg.eigvalsh(blocks(params, batch)).max()
            errors[cold_every].append(abs(float(found.values[0]) - exact) / exact)
            assert bool(found.cold) == (step % cold_every == 0)
            assert errors[cold_every][-1] <= TOL or not found.cold
    assert max(errors[50][7:]) <= TOL
    assert max(errors[4][4:]) <= TOL


def blocks(params, batch):
    inputs, share = batch
    for_each = [(1.0, params["a"]), (share, params["b"])]
    weights = [factor * (1 - jnp.tanh(inputs @ vector) ** 2) / len(inputs) for factor, vector in for_each]
    return np.stack([np.asarray(inputs.T @ (w[:, None] * inputs), float) for w in weights])


def test_a_top_that_doubles_in_another_coordinate_is_found_and_kept():
    tracker = training.Tracker.from_objective(lambda w, d: 0.5 * jnp.sum(d * w**2), num_bottom=0)
    w = jnp.ones(2000)
    diagonal = jnp.asarray(np.random.default_rng(0).uniform(0, 1, 2000), jnp.float32).at[0].set(2.0)
    state, _ = tracker.measure(tracker.init(w), w, diagonal, jax.random.key(0))
    values = []
    for step in range(1, 7):
        state, record = tracker.measure(state, w, diagonal.at[1].set(4.0), jax.random.key(step))
        values.append(float(record.hessian.values[0]))
    np.testing.assert_allclose(values[4:], 4, rtol=TOL)
