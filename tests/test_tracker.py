"""The tracker against dense float64 matrices, along a real Optax loop, and with input that is wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import losses, parallel, training
from tests.oracles import dense_gauss_newton, dense_hessian, dense_jacobian, flat
from tests.problems import SHANNON, mlp, problem

NUM_TOP, NUM_BOTTOM, TOL = 2, 1, 1e-6


def make_tracker(case, **options):
    return training.Tracker(case.apply_fn, case.loss, **{"num_top": NUM_TOP, "num_bottom": NUM_BOTTOM, **options})


def wide(dtype=jnp.float32, n=64):
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 16), "b1": (16,), "w2": (16, 3)}
    params = {name: jnp.asarray(rng.standard_normal(shape) / 3, dtype) for name, shape in shapes.items()}
    return params, cljax.Batch(jnp.asarray(rng.standard_normal((n, 6)), dtype), jnp.arange(n) % 3)


@pytest.mark.parametrize("name", ["softmax-mlp", "weighted", "conv", "bernoulli-soft", "not-fenchel-young", "equinox"])
def test_record_is_what_dense_float64_says(name, x64):
    case = problem(name)
    tracker = make_tracker(case, tol=TOL)
    state, record = tracker.measure(tracker.init(case.params), case.params, case.batch, jax.random.key(0))
    dense = np.linalg.eigvalsh(dense_hessian(case.objective, case.params, case.batch))
    expected = np.concatenate([dense[:NUM_BOTTOM], dense[-NUM_TOP:]])
    assert record.hessian.converged.all()
    # an eigenvalue of a symmetric matrix is within the residual of the pair that claims it
    bound = np.asarray(record.hessian.residual_norms) + 1e-12 * np.abs(dense).max()
    assert (np.abs(record.hessian.values - expected) <= bound).all()
    gauss = np.linalg.eigvalsh(dense_gauss_newton(case.apply_fn, case.loss, case.params, case.batch))
    assert abs(record.gauss_newton.values[0] - gauss[-1]) <= record.gauss_newton.residual_norms[0] + 1e-12 * gauss[-1]
    gradient = flat(jax.grad(case.objective)(case.params, case.batch))
    np.testing.assert_allclose(record.gradient_norm, np.linalg.norm(gradient), rtol=1e-12)
    np.testing.assert_allclose(record.loss, case.objective(case.params, case.batch), rtol=1e-12)
    assert record.gradient_energy >= record.gradient_norm**2
    assert int(state.num_measurements) == 1


def test_structure_of_the_first_examples(x64):
    case = problem("not-fenchel-young")
    _, record = make_tracker(case, structure_examples=3).measure(
        make_tracker(case).init(case.params), case.params, case.batch, jax.random.key(0)
    )
    rows = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(7, 3, -1)[:3]
    eigenvalues = np.linalg.eigvalsh(rows @ rows.transpose(0, 2, 1))
    np.testing.assert_allclose([record.structure_min, record.structure_max], [eigenvalues.min(), eigenvalues.max()])
    np.testing.assert_allclose(record.structure_spread, np.log(eigenvalues.max() / eigenvalues.min()))


def test_along_an_optax_loop_a_warm_start_costs_no_more_products_than_a_cold_one():
    params, batch = wide()
    gradient_fn = jax.jit(jax.grad(losses.objective(mlp, SHANNON)))
    optimizer = optax.sgd(0.05, momentum=0.9)
    tracker = training.Tracker(mlp, SHANNON, num_top=1, num_bottom=0, tol=1e-3, check_operator=False)
    state, opt_state, warm, cold = tracker.init(params), optimizer.init(params), 0, 0
    for step in range(12):
        key = jax.random.fold_in(jax.random.key(0), step)
        state, record = tracker.measure(state, params, batch, key)
        _, fresh = tracker.measure(tracker.init(params), params, batch, key)
        assert record.hessian.accurate.all()
        assert record.hessian.converged.all() == (step == 0)  # a warm start cannot know that nothing hides
        assert fresh.hessian.converged.all()
        gap = abs(record.hessian.values[0] - fresh.hessian.values[0])
        assert gap <= record.hessian.residual_norms[0] + fresh.hessian.residual_norms[0]
        if step:
            warm, cold = warm + int(record.hessian.num_products), cold + int(fresh.hessian.num_products)
        updates, opt_state = optimizer.update(gradient_fn(params, batch), opt_state, params)
        params = optax.apply_updates(params, updates)
    assert int(state.num_measurements) == 12
    assert warm < cold


def test_inside_of_jit_it_measures_the_same():
    params, batch = wide()
    tracker = training.Tracker(mlp, SHANNON, tol=1e-4)
    key = jax.random.key(3)
    eager_state, eager = tracker.measure(tracker.init(params), params, batch, key)
    state, record = jax.jit(tracker.measure)(tracker.init(params), params, batch, key)
    assert jax.tree.structure(state) == jax.tree.structure(eager_state)
    slack = np.asarray(eager.hessian.residual_norms) + np.asarray(record.hessian.residual_norms)
    assert (np.abs(eager.hessian.values - record.hessian.values) <= slack).all()
    for name in ("loss", "gradient_norm", "gradient_energy", "structure_min", "structure_max"):
        np.testing.assert_allclose(getattr(eager, name), getattr(record, name), rtol=1e-4)


def test_a_plain_objective_has_loss_gradient_and_hessian(x64):
    scale = jnp.array([4.0, -1.0, 0.5])
    tracker = training.Tracker.from_objective(lambda w, batch: 0.5 * jnp.sum(batch * w**2), num_top=1, num_bottom=1)
    w = jnp.array([1.0, 2.0, 0.0])
    _, record = tracker.measure(tracker.init(w), w, scale, jax.random.key(0))
    np.testing.assert_allclose(record.hessian.values, [-1, 4], rtol=1e-9)
    np.testing.assert_allclose(record.gradient_norm, np.hypot(4, 2), rtol=1e-12)
    assert record.gauss_newton is record.gradient_energy is record.structure_min is None


def test_weight_decay_is_in_the_curvature_where_asked_for():
    params, batch = wide()
    records = []
    for decay in (0.0, 0.25):
        tracker = training.Tracker(mlp, SHANNON, weight_decay=decay)
        records.append(tracker.measure(tracker.init(params), params, batch, jax.random.key(0))[1])
    plain, decayed = records
    tol = 2e-3 * float(plain.hessian.values[-1])  # twice the tolerance
    np.testing.assert_allclose(decayed.hessian.values, plain.hessian.values + 0.25, atol=tol)
    np.testing.assert_allclose(decayed.gauss_newton.values, plain.gauss_newton.values + 0.25, atol=tol)
    assert decayed.loss == plain.loss
    with pytest.raises(ValueError, match="weight_decay: expected a finite number of at least 0, got -1"):
        training.Tracker(mlp, SHANNON, weight_decay=-1)


def test_products_of_the_check_count():
    params, batch = wide()
    found = []
    for check in (True, False):
        tracker = training.Tracker(mlp, SHANNON, check_operator=check)
        found.append(tracker.measure(tracker.init(params), params, batch, jax.random.key(0))[1].hessian)
    assert found[0].num_products == found[1].num_products + 4
    assert found[0].method == "forward_over_reverse"


def test_nan_gives_nan_and_the_next_measurement_recovers():
    params, batch = wide()
    tracker = training.Tracker(mlp, SHANNON)
    broken = params | {"w1": params["w1"].at[0, 0].set(jnp.nan)}
    state, record = tracker.measure(tracker.init(params), broken, batch, jax.random.key(0))
    assert np.isnan(record.hessian.values).all()
    assert not record.hessian.converged.any()
    assert np.isnan([record.loss, record.gradient_energy, record.structure_max, record.gauss_newton.values[0]]).all()
    _, again = tracker.measure(state, params, batch, jax.random.key(1))
    _, fresh = tracker.measure(tracker.init(params), params, batch, jax.random.key(1))
    assert again.hessian.converged.all()
    np.testing.assert_allclose(again.hessian.values, fresh.hessian.values, rtol=3e-3, atol=1e-4)


def test_eight_devices_measure_what_one_does():
    params, batch = wide()
    tracker = training.Tracker(mlp, SHANNON, tol=1e-4)
    records = []
    for num_devices in (1, 8):
        mesh = parallel.data_mesh(num_devices)
        placed = parallel.replicate(params, mesh)
        _, record = tracker.measure(
            tracker.init(placed), placed, parallel.shard_batch(batch, mesh), parallel.replicate(jax.random.key(0), mesh)
        )
        records.append(record)
    one, eight = (jax.device_get(record) for record in records)
    slack = one.hessian.residual_norms + eight.hessian.residual_norms
    assert (np.abs(one.hessian.values - eight.hessian.values) <= slack).all()
    for name in ("loss", "gradient_norm", "gradient_energy", "structure_min", "structure_max"):
        np.testing.assert_allclose(getattr(one, name), getattr(eight, name), rtol=1e-4)


def test_trackers_are_equal_by_value():
    tracker = training.Tracker(mlp, SHANNON)
    assert tracker == training.Tracker(mlp, losses.fenchel_young(losses.shannon()))
    assert hash(tracker) == hash(dataclasses.replace(tracker))
    assert tracker != dataclasses.replace(tracker, num_top=2)


def test_wrong_input():
    params, batch = wide()
    tracker = training.Tracker(mlp, SHANNON)
    state = tracker.init(params)
    with pytest.raises(ValueError, match="expected apply_fn with loss, or objective_fn alone"):
        training.Tracker(mlp, None)
    with pytest.raises(ValueError, match="num_top"):
        training.Tracker(mlp, SHANNON, num_top=0, num_bottom=0)
    with pytest.raises(ValueError, match=r"expected 1 to 2, .*got 2 \+ 1"):
        training.Tracker(mlp, SHANNON, num_top=2).init(jnp.ones(2))
    with pytest.raises(ValueError, match="max_products: expected an integer of at least 5, got 4"):
        training.Tracker(mlp, SHANNON, max_products=4).init(params)
    with pytest.raises(TypeError, match="objective_fn: expected a function, got int"):
        training.Tracker.from_objective(3)
    with pytest.raises(ValueError, match="basis_size: expected at least"):
        training.Tracker(mlp, SHANNON, basis_size=2).init(params)
    with pytest.raises(ValueError, match="threshold: expected a tracker with max_top"):
        tracker.measure(state, params, batch, jax.random.key(0), threshold=1.0)
    grows = training.Tracker(mlp, SHANNON, max_top=2)
    with pytest.raises(ValueError, match="max_top: expected None inside of jit"):
        jax.jit(grows.measure)(grows.init(params), params, batch, jax.random.key(0))
    with pytest.raises(TypeError, match="params"):
        tracker.init({"w": jnp.ones(3, int)})
    with pytest.raises(TypeError, match="key"):
        tracker.measure(state, params, batch, 0)
    empty = jax.tree.map(lambda x: x[:0], batch)
    with pytest.raises(ValueError, match="batch"):
        tracker.measure(state, params, empty, jax.random.key(0))


def test_sequences_have_no_structure_matrices():
    case = problem("tokens", jnp.float32)
    tracker = training.Tracker(case.apply_fn, case.loss, num_bottom=0, max_products=12)
    _, record = tracker.measure(tracker.init(case.params), case.params, case.batch, jax.random.key(0))
    assert record.structure_min is record.structure_max is record.structure_spread is None
    assert 0 < record.gradient_norm**2 <= record.gradient_energy
