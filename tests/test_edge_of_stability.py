"""Real dynamics: full-batch gradient descent drives the sharpness to 2/η and holds it there.

The facts are those of Cohen et al., "Gradient descent on neural networks typically occurs at the edge of stability",
2021; the sharpness is what the tracker says it is.
"""

import functools
import itertools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import losses, training
from cljax.training.datasets import load_dataset

SQUARED = losses.fenchel_young(losses.squared())


def tanh_network(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ last["w"] + last["b"][None]


def make_params(widths, key, first_scale=1.0):
    """Uniform in ±1/√inputs, for weights and biases; the first layer times ``first_scale``."""
    params = []
    for num_inputs, num_outputs in itertools.pairwise(widths):
        key, w_key, b_key = jax.random.split(key, 3)
        bound = num_inputs**-0.5 * (1.0 if params else first_scale)
        shapes = {"w": (w_key, (num_inputs, num_outputs)), "b": (b_key, (num_outputs,))}
        params.append({n: jax.random.uniform(k, s, minval=-bound, maxval=bound) for n, (k, s) in shapes.items()})
    return params


def sharpness_in_thresholds(params, batch, learning_rate, steps_between, num_measurements):
    """Greatest Hessian eigenvalue over 2/η along gradient descent, and the loss."""
    gradient_fn = jax.grad(losses.objective(tanh_network, SQUARED))

    @functools.partial(jax.jit, donate_argnums=0)
    def descend(params):
        def step(_, p):
            return jax.tree.map(lambda w, g: w - learning_rate * g, p, gradient_fn(p, batch))

        return jax.lax.fori_loop(0, steps_between, step, params)

    tracker = training.Tracker(
        tanh_network, SQUARED, num_top=1, num_bottom=0, structure_examples=0, measure_gauss_newton=False
    )
    state, ratios, loss = tracker.init(params), [], []
    for index in range(num_measurements):
        params = descend(params) if index else params
        state, record = tracker.measure(state, params, batch, jax.random.key(index))
        assert record.hessian.accurate.all()
        ratios.append(float(record.hessian.values[0]) * learning_rate / 2)
        loss.append(float(record.loss))
    return np.array(ratios), np.array(loss)


@pytest.mark.parametrize("seed", [0, 1])
def test_chebyshev_polynomial_of_degree_four(seed):
    """The first layer starts at half the usual scale: at the full one the sharpness is above 2/η before any step."""
    x = np.cos((2 * np.arange(20) + 1) * np.pi / 40)[:, None]
    targets = 8 * x**4 - 8 * x**2 + 1
    batch = cljax.Batch(jnp.asarray(x, jnp.float32), jnp.asarray(targets, jnp.float32))
    params = make_params((1, 100, 1), jax.random.key(seed), first_scale=0.5)
    ratios, loss = sharpness_in_thresholds(params, batch, 0.2, 500, 80)
    assert ratios[0] < 0.95
    plateau = ratios[len(ratios) // 2 :]
    assert abs(np.median(plateau) - 1) < 0.03
    assert (np.abs(plateau - 1) < 0.06).all()
    assert loss[-1] < 0.1 * loss[0]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(
    not (pathlib.Path(os.environ.get("CLJAX_DATA", "/nowhere")) / "fashion_mnist").is_dir(),
    reason="CLJAX_DATA names no folder with a folder fashion_mnist",
)
def test_fashion_mnist_of_a_thousand_examples():
    """After 2,000 steps the sharpness is a little above 2/η; 1.063 times it is the published figure."""
    data = load_dataset("fashion_mnist", None, num_train=1000, num_test=1, seed=0)
    inputs = jnp.asarray(data.train_inputs.reshape(1000, -1), jnp.float32)
    batch = cljax.Batch(inputs, jnp.asarray(data.train_targets))
    params = make_params((784, 200, 200, 10), jax.random.key(0))
    ratios, loss = sharpness_in_thresholds(params, batch, 0.05, 200, 11)
    assert ratios[0] < 1
    assert abs(ratios[-6:].mean() - 1.063) < 0.05
    assert loss[-1] < loss[0]
