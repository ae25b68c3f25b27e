"""What tracking is for: few products a measurement, sets that grow, signs that hold, optimizers' own geometry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cljax import curvature, losses, parallel, spectral, training
from cljax.spectral.eigenpairs import empty_pairs
from cljax.training.config import RunConfig
from cljax.training.run import make_run
from tests.oracles import dense_hessian
from tests.problems import problem


def along_digits(every, **changes):
    """Operators and gradients along a run on the digits, and reference values of the top eigenvalue."""
    run, state = make_run(RunConfig(num_devices=1, **changes))
    objective = losses.objective(run.apply_fn, run.loss)
    gradient_fn = jax.jit(jax.grad(objective))
    for step in range(run.config.num_steps + 1):
        params = state.train.params
        if step % every == 0:
            op = curvature.hessian(objective, params, run.curvature_batch)
            exact = spectral.extreme_eigenpairs(op, jax.random.key(99), tol=1e-6)
            assert exact.converged.all()
            yield op, gradient_fn(params, run.curvature_batch), float(exact.values[0])
        state = dataclasses.replace(state, train=run.step_fn(state.train, run.put(run.batches(step))))


def track(points, criterion="value"):
    """Products of warm and of cold measurements, and the greatest relative error of the warm ones."""
    warm, cold, errors, pairs = [], [], [], None
    for index, (op, gradient, exact) in enumerate(points):
        key = jax.random.key(index)
        if pairs is None:
            pairs = empty_pairs(op.struct, 1, 0)
        pairs = spectral.extreme_eigenpairs(op, key, start=pairs, check=gradient, criterion=criterion)
        assert pairs.accurate.all()
        warm.append(int(pairs.num_products))
        cold.append(int(spectral.extreme_eigenpairs(op, key).num_products))
        errors.append(abs(float(pairs.values[0]) - exact) / exact)
    return warm, cold, max(errors)


@pytest.mark.slow
def test_the_default_run_takes_four_products_a_measurement():
    warm, cold, error = track(along_digits(20))
    assert error <= 1e-3
    assert np.mean(warm[1:]) <= 4
    assert np.mean(cold) >= 2 * np.mean(warm[1:])


@pytest.mark.slow
def test_a_noisy_run_takes_three_quarters_of_cold_starts():
    warm, cold, error = track(along_digits(10, learning_rate=0.15, batch_size=16, num_steps=400))
    assert error <= 1e-3
    assert np.mean(warm[1:]) <= 0.75 * np.mean(cold)


def quadratic(w, diagonal):
    return 0.5 * jnp.sum(diagonal * w**2)


def test_the_tracked_set_grows_and_shrinks_with_what_is_above():
    tracker = training.Tracker.from_objective(quadratic, num_top=1, num_bottom=0, max_top=4, tol=1e-5)
    w = jnp.ones(12)
    state = tracker.init(w)
    many = jnp.r_[jnp.array([9.0, 8.0, 7.0, 6.0, 5.0]), jnp.linspace(-1, 1, 7)]
    few = jnp.r_[jnp.array([9.0, 0.8, 0.7, 0.6, 0.5]), jnp.linspace(-1, 0.4, 7)]
    sizes = []
    for step, diagonal in enumerate([many, many, many, few, few, few]):
        state, record = tracker.measure(state, w, diagonal, jax.random.key(step), threshold=4.0)
        sizes.append(len(record.hessian.values))
        expected = np.sort(np.asarray(diagonal))[-sizes[-1] :]
        np.testing.assert_allclose(record.hessian.values, expected, rtol=1e-4)
    assert sizes == [1, 2, 4, 4, 2, 2]
    structure = jax.tree.structure(tracker.init(w))
    assert jax.tree.structure(state) == structure
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(tracker.init(w))]


@pytest.mark.parametrize("explicit", [False, True])
def test_the_tracked_set_of_split_parameters(explicit):
    """Places of pairs that are not tracked are split as the others are."""
    mesh = parallel.make_mesh("data=8", explicit=explicit)
    diagonal = jax.device_put(
        jnp.r_[jnp.array([9.0, 8.0, 7.0]), jnp.linspace(-1, 1, 13)], NamedSharding(mesh, P("data"))
    )
    w = jax.device_put(jnp.ones(16), NamedSharding(mesh, P("data")))
    tracker = training.Tracker.from_objective(quadratic, num_top=1, num_bottom=1, max_top=4, tol=1e-5)
    with jax.set_mesh(mesh):
        state, _ = tracker.measure(tracker.init(w), w, diagonal, jax.random.key(0), threshold=4.0)
        state, record = tracker.measure(state, w, diagonal, jax.random.key(1), threshold=4.0)
    np.testing.assert_allclose(record.hessian.values, [-1, 8, 9], rtol=1e-4)
    assert state.hessian.vectors.shape == (5, 16)
    assert state.hessian.vectors.sharding.shard_shape((5, 16)) == (5, 2)


def test_vectors_keep_their_signs():
    tracker = training.Tracker.from_objective(quadratic, num_top=2, num_bottom=0, tol=1e-5)
    w, diagonal = jnp.ones(12), jnp.r_[jnp.array([9.0, 8.0]), jnp.linspace(-1, 1, 10)]
    state, first = tracker.measure(tracker.init(w), w, diagonal, jax.random.key(0))
    again, second = tracker.measure(state, w, 1.01 * diagonal, jax.random.key(1))
    before, after = np.asarray(state.hessian.vectors), np.asarray(again.hessian.vectors)
    np.testing.assert_allclose(np.sum(before * after, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(second.hessian.overlaps, 1, atol=1e-4)
    assert not np.any(first.hessian.overlaps)


def test_preconditioned_by_adam_against_dense(x64):
    case = problem("softmax-mlp")
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(case.params)
    gradient = jax.grad(case.objective)(case.params, case.batch)
    _, opt_state = optimizer.update(gradient, opt_state, case.params)
    diagonal = training.preconditioner(opt_state)
    tracker = training.Tracker.from_objective(case.objective, tol=1e-8)
    _, record = tracker.measure(
        tracker.init(case.params), case.params, case.batch, jax.random.key(0), preconditioner=diagonal
    )
    root = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(diagonal)]) ** -0.5
    dense = np.linalg.eigvalsh(root[:, None] * dense_hessian(case.objective, case.params, case.batch) * root)
    slack = np.asarray(record.hessian.residual_norms) + 1e-12 * np.abs(dense).max()
    assert np.all(np.abs(record.hessian.values - dense[[0, -1]]) <= slack)


def test_randomness_without_a_key_is_caught_at_the_first_measurement():
    rng = np.random.default_rng(0)

    def dropout(w, batch):
        noise = jax.pure_callback(
            lambda: rng.uniform(0.5, 1.5, 12).astype(np.float32), jax.ShapeDtypeStruct((12,), jnp.float32)
        )
        return 0.5 * jnp.sum(jax.lax.stop_gradient(noise) * batch * w**2)

    tracker = training.Tracker.from_objective(dropout)
    w = jnp.ones(12)
    with pytest.raises(ValueError, match="dropout or other randomness without a fixed key"):
        tracker.measure(tracker.init(w), w, jnp.linspace(1, 2, 12), jax.random.key(0))
    unchecked = dataclasses.replace(tracker, check_operator=False)
    unchecked.measure(unchecked.init(w), w, jnp.linspace(1, 2, 12), jax.random.key(0))


def test_wrong_options():
    with pytest.raises(ValueError, match="criterion: expected one of"):
        training.Tracker.from_objective(quadratic, criterion="values")
    with pytest.raises(ValueError, match="max_top: expected an integer of at least 3"):
        training.Tracker.from_objective(quadratic, num_top=3, max_top=2)
    with pytest.raises(ValueError, match="track_above: expected a positive"):
        RunConfig(track_above=-1.0)
    with pytest.raises(ValueError, match="max_top: expected at least num_top 3"):
        RunConfig(track_above=1.0, max_top=2)
