"""One training step against plain NumPy, and what it does with numbers that are not finite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import losses, training
from cljax.training.optimizer import learning_rate_schedule, make_optimizer
from cljax.training.step import init_state, train_step

pytestmark = pytest.mark.fast

X, Y = (np.random.default_rng(seed).standard_normal(shape) for seed, shape in ((0, (12, 3)), (1, (12, 2))))
W = np.random.default_rng(2).standard_normal((3, 2))


def make_step(config):
    optimizer = make_optimizer(config)
    objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
    return optimizer, jax.jit(partial(train_step, objective=objective, optimizer=optimizer))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_the_recurrence_written_in_numpy(x64, schedule, momentum):
    num_steps, warmup = 12, 4
    config = training.RunConfig(
        num_steps=num_steps, warmup_steps=warmup, schedule=schedule, momentum=momentum, weight_decay=0.3
    )
    optimizer, step_fn = make_step(config)
    state = init_state(jnp.asarray(W), optimizer)
    expected, velocity = W.copy(), np.zeros_like(W)
    for step in range(num_steps):
        if step < warmup:
            rate = config.learning_rate * step / warmup
        elif schedule == "constant":
            rate = config.learning_rate
        else:
            rate = config.learning_rate * (1 + np.cos(np.pi * (step - warmup) / (num_steps - warmup))) / 2
        assert float(learning_rate_schedule(config)(step)) == pytest.approx(rate, rel=1e-6)
        gradient = X.T @ (X @ expected - Y) / len(X)
        velocity = momentum * velocity + gradient + 0.3 * expected
        expected = expected - rate * velocity
        state = step_fn(state, cljax.Batch(jnp.asarray(X), jnp.asarray(Y)))
    np.testing.assert_allclose(state.params, expected, rtol=1e-7)
    assert int(state.step) == num_steps
    assert int(state.bad_step) == -1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_remembered(bad):
    optimizer, step_fn = make_step(training.RunConfig(schedule="constant"))
    good = cljax.Batch(jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32))
    broken = cljax.Batch(good.inputs.at[0, 0].set(bad), good.targets)
    before = step_fn(init_state(jnp.asarray(W, jnp.float32), optimizer), good)
    after = step_fn(step_fn(before, broken), good)
    assert int(after.bad_step) == 1 == int(after.step)
    assert not np.isfinite(after.loss)
    for old, new in zip(
        jax.tree.leaves((before.params, before.opt_state)), jax.tree.leaves((after.params, after.opt_state))
    ):
        np.testing.assert_array_equal(old, new)
