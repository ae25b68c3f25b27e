"""The diagonal read out of an optimizer's state against the update that Optax makes with it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import curvature, spectral, training
from tests.oracles import eps

pytestmark = pytest.mark.fast

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.2])}
GRADIENTS = [jax.tree.map(lambda x, k=k: jnp.sin(3.0 * k + x) + 0.01 * k, PARAMS) for k in range(4)]
LR = 0.01


def run(optimizer):
    state = optimizer.init(PARAMS)
    for gradient in GRADIENTS:
        updates, state = optimizer.update(gradient, state, PARAMS)
    return updates, state


def mean_of_gradients(b1, corrected=True):
    """Exponential mean of the gradients, divided by its bias: what P divides."""
    mean = jax.tree.map(jnp.zeros_like, PARAMS)
    for gradient in GRADIENTS:
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, gradient)
    return jax.tree.map(lambda m: m / (1 - b1 ** len(GRADIENTS)), mean) if corrected else mean


MOMENTUM = mean_of_gradients(0.9)
LAST = GRADIENTS[-1]
SETTINGS = {"b2": 0.9, "eps": 0.1, "eps_root": 0.2}
CASES = {
    "adam": (optax.adam(LR), {}, MOMENTUM),
    "adam with settings": (optax.adam(LR, **SETTINGS), SETTINGS, MOMENTUM),
    "injected": (optax.inject_hyperparams(optax.adam)(LR, b2=0.9, eps=0.1), {}, MOMENTUM),
    "clipped and scheduled": (
        optax.chain(optax.clip_by_global_norm(1e6), optax.adam(optax.constant_schedule(LR))), {}, MOMENTUM,
    ),
    "accumulated": (optax.MultiSteps(optax.adam(LR), 1), {}, MOMENTUM),
    "amsgrad": (optax.amsgrad(LR), {}, MOMENTUM),
    "adabelief": (optax.adabelief(LR, **SETTINGS), SETTINGS, MOMENTUM),
    "adabelief injected": (optax.inject_hyperparams(optax.adabelief)(LR, **SETTINGS), {}, MOMENTUM),
    "rmsprop": (optax.rmsprop(LR), {}, LAST),
    "rmsprop as in torch": (optax.rmsprop(LR, eps=0.1, eps_in_sqrt=False), {"eps": 0.1, "eps_in_sqrt": False}, LAST),
    "rmsprop inside": (optax.rmsprop(LR, eps=0.1), {"eps": 0.1}, LAST),
    "rmsprop without bias": (optax.rmsprop(LR, bias_correction=True), {}, LAST),
    "rmsprop injected": (optax.inject_hyperparams(optax.rmsprop)(LR, eps=0.1), {}, LAST),
    "adagrad": (optax.adagrad(LR), {}, LAST),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_updates_are_what_the_preconditioner_divides(name):
    optimizer, settings, numerator = CASES[name]
    updates, state = run(optimizer)
    p = training.preconditioner(state, **settings)
    expected = jax.tree.map(lambda m, d: -LR * m / d, numerator, p)
    # the numerator is a sum over the gradients, 1 − b2^t a difference of numbers near 1
    bound = 64 * eps(jnp.float32) / (1 - 0.999 ** len(GRADIENTS))
    for found, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(expected)):
        np.testing.assert_allclose(found, wanted, rtol=bound)


def test_belief_and_decoupled_decay():
    updates, state = run(optax.adamw(LR, weight_decay=0.5))
    p = training.preconditioner(state)
    for found, m, d, w in zip(*map(jax.tree.leaves, (updates, MOMENTUM, p, PARAMS))):
        np.testing.assert_allclose(found, -LR * (m / d + 0.5 * w), rtol=1e-3)
    updates, state = run(optax.adabelief(LR))
    for found, m, d in zip(*map(jax.tree.leaves, (updates, MOMENTUM, training.preconditioner(state)))):
        np.testing.assert_allclose(found, -LR * m / d, rtol=1e-3)


def test_masked_leaves_have_the_divisor_1():
    updates, state = run(optax.masked(optax.scale_by_adam(), {"w": True, "b": False}))
    p = training.preconditioner(state)
    np.testing.assert_array_equal(p["b"], 1.0)
    np.testing.assert_array_equal(updates["b"], LAST["b"])
    np.testing.assert_allclose(updates["w"], MOMENTUM["w"] / p["w"], rtol=1e-3)
    op = curvature.hessian(lambda q: jnp.sum(q["w"] ** 2) + jnp.sum(q["b"] ** 2), PARAMS)
    product = curvature.precondition(op, p) @ PARAMS
    np.testing.assert_allclose(product["b"], 2 * PARAMS["b"], rtol=8 * eps(jnp.float32))


def test_none_several_and_unused_states_are_refused():
    with pytest.raises(ValueError, match=r"^opt_state: expected one state with a second moment, .* got none"):
        training.preconditioner(run(optax.sgd(LR, momentum=0.9))[1])
    both = optax.partition({"x": optax.adam(LR), "y": optax.rmsprop(LR)}, {"w": "x", "b": "y"})
    with pytest.raises(ValueError, match=r"got \['ScaleByAdamState', 'ScaleByRmsState'\]"):
        training.preconditioner(run(both)[1])
    with pytest.raises(ValueError, match="^opt_state: expected the state after at least one update"):
        training.preconditioner(optax.adam(LR).init(PARAMS))


def test_it_runs_inside_of_jit():
    state = run(optax.adam(LR))[1]
    inside = jax.jit(training.preconditioner)(state)
    for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(training.preconditioner(state))):
        np.testing.assert_allclose(a, b, rtol=8 * eps(jnp.float32))


def test_the_preconditioned_sharpness_is_where_preconditioned_descent_turns_unstable():
    # a quadratic with frozen P: descent along the top direction contracts below 2/lr and grows above
    scales = jnp.array([4.0, 1.0])
    op = curvature.hessian(lambda w: 0.5 * jnp.sum(scales * w**2), jnp.ones(2))
    p = jnp.array([16.0, 1.0])
    pre = curvature.precondition(op, p)
    pairs = spectral.extreme_eigenpairs(pre, jax.random.key(0))
    np.testing.assert_allclose(pairs.values[-1], 1.0, rtol=1e-3)
    u = pre.to_params(pairs.vectors[-1])
    for lr, grows in ((1.9, False), (2.1, True)):
        stepped = u - lr * (op @ u) / p
        assert (np.linalg.norm(stepped) > np.linalg.norm(u)) == grows
