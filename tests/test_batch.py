"""The normalization contract: one weighted mean, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses
from cljax._batch import as_batch, split_batch, weighted_mean
from tests.oracles import dense_gauss_newton, tolerance
from tests.problems import NAMES, problem

EVERY_SIZE = ("softmax-mlp", "weighted", "tokens")


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 3) for name in NAMES] + [(name, size) for name in EVERY_SIZE for size in (1, 5, 100)],
)
def test_microbatched_products_are_exact_on_uneven_batches(name, size, x64):
    case = problem(name)
    pairs = [
        [curvature.hessian(case.objective, case.params, case.batch, microbatch_size=s) for s in (size, None)],
        [
            curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch, microbatch_size=s)
            for s in (size, None)
        ],
    ]
    for split, whole in pairs:
        expected = np.asarray(curvature.to_dense(whole))
        bound = tolerance(jnp.float64, expected.size, np.abs(expected).max())
        np.testing.assert_allclose(curvature.to_dense(split), expected, rtol=0, atol=bound)


def test_batches_of_16_16_1_are_not_a_mean_of_means(x64):
    x = np.random.default_rng(0).standard_normal((33, 4)) * np.r_[np.ones(32), 30][:, None]
    batch = cljax.Batch(jnp.asarray(x), jnp.zeros((33, 1)))
    case = problem("linear-squared")
    op = curvature.hessian(case.objective, jnp.zeros((4, 1)), batch, microbatch_size=16)
    np.testing.assert_allclose(curvature.to_dense(op), x.T @ x / 33, rtol=1e-13)


def test_padding_alone_in_a_microbatch_counts_for_nothing(x64):
    case = problem("softmax-mlp")
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a]), case.batch)
    padded = cljax.Batch(padded.inputs, padded.targets, jnp.r_[jnp.ones(7), jnp.zeros(7)])
    op = curvature.hessian(case.objective, case.params, padded, microbatch_size=2)
    expected = curvature.to_dense(curvature.hessian(case.objective, case.params, case.batch))
    np.testing.assert_allclose(curvature.to_dense(op), expected, rtol=0, atol=1e-14)


def test_all_weights_zero_give_nan():
    case = problem("softmax-mlp", jnp.float32)
    batch = cljax.Batch(case.batch.inputs, case.batch.targets, jnp.zeros(7))
    for size in (None, 3):
        op = curvature.hessian(case.objective, case.params, batch, microbatch_size=size)
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(op @ case.params))


def test_weight_zero_hides_what_is_not_finite():
    assert weighted_mean(jnp.array([1.0, jnp.inf, jnp.nan]), jnp.array([1.0, 0.0, 0.0])) == 1.0


def test_split_pads_with_weight_zero():
    parts = split_batch(cljax.Batch(jnp.arange(5.0)[:, None], jnp.arange(5)), 2)
    assert parts.inputs.shape == (3, 2, 1)
    np.testing.assert_array_equal(parts.weight, [[1, 1], [1, 1], [1, 0]])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (cljax.Batch(jnp.zeros((0, 2)), jnp.zeros(0)), ValueError, "batch: expected at least one example"),
        (cljax.Batch(jnp.zeros((3, 2)), jnp.zeros(2)), ValueError, "batch: expected one leading axis"),
        (jnp.zeros(3), TypeError, "batch: expected a cljax.Batch"),
        ((jnp.zeros((0, 2)), jnp.zeros(0)), ValueError, "batch of size 0"),
    ],
)
def test_bad_batches(batch, error, message):
    with pytest.raises(error, match=message):
        as_batch(batch)


def test_wrong_weight_shape():
    with pytest.raises(ValueError, match=r"weight: expected a leading part of the losses' shape \(3,\), got \(2,\)"):
        weighted_mean(jnp.ones(3), jnp.ones(2))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_bad_microbatch_size(size, error):
    case = problem("softmax-mlp", jnp.float32)
    with pytest.raises(error, match="microbatch_size: expected"):
        curvature.hessian(case.objective, case.params, case.batch, microbatch_size=size)
    with pytest.raises(TypeError, match="microbatch_size: expected a cljax.Batch"):
        curvature.hessian(lambda p, x: jnp.sum(p * x), jnp.ones(3), jnp.ones(3), microbatch_size=2)


@pytest.mark.parametrize("mask", [-100, 7])
def test_masked_labels_reach_no_derivative(mask):
    loss = losses.fenchel_young(losses.shannon())
    objective = losses.objective(lambda w, x: x @ w, loss)
    x, w = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32), jnp.ones((2, 3)) / 7
    masked = cljax.Batch(x, jnp.array([1, mask, 2]), jnp.array([1.0, 0.0, 2.0]))
    plain = cljax.Batch(x[::2], jnp.array([1, 2]), jnp.array([1.0, 2.0]))
    for fn in (
        objective,
        jax.grad(objective),
        lambda w, b: curvature.hessian(objective, w, b) @ w,
        lambda w, b: curvature.hessian(objective, w, b, microbatch_size=1) @ w,
        lambda w, b: curvature.gauss_newton(lambda w, x: x @ w, loss, w, b) @ w,
    ):
        np.testing.assert_allclose(fn(w, masked), fn(w, plain), rtol=1e-5, atol=1e-7)


def squared_error(scores, targets):
    return jnp.sum((scores - targets) ** 2, axis=-1)


REDUCED = {
    "mean": (lambda s, y: jnp.mean(squared_error(s, y)), r"\(\)"),
    "sum": (lambda s, y: jnp.sum(squared_error(s, y)), r"\(\)"),
    "kept axis": (lambda s, y: jnp.mean(squared_error(s, y), axis=0, keepdims=True), r"\(1,\)"),
}


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("weight", [None, jnp.ones(3)])
def test_a_reduced_loss_is_refused_before_anything_is_compiled(name, weight):
    loss, shape = REDUCED[name]
    params, batch = jnp.ones((2, 4)), cljax.Batch(jnp.ones((3, 2)), jnp.zeros((3, 4)), weight)
    message = rf"^loss: expected one number for each example, shape \(batch, \.\.\.\), got shape {shape} for .*reduced"
    objective = losses.objective(lambda w, x: x @ w, loss)
    for fn in (objective, jax.grad(objective), jax.jit(objective).lower):
        with pytest.raises(ValueError, match=message):
            fn(params, batch)
    for size in (None, 2):
        op = curvature.gauss_newton(lambda w, x: x @ w, loss, params, batch, microbatch_size=size)
        with pytest.raises(ValueError, match=message):
            _ = op @ params
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda op: op @ params).lower(op)


@pytest.mark.parametrize("weighted", ["nothing", "sequences", "tokens"])
@pytest.mark.parametrize("num", [3, 1])
def test_losses_of_tokens_and_of_sequences_are_not_reduced(weighted, num, x64):
    rng = np.random.default_rng(0)
    w, x, y = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 4), (num, 5, 2), (num, 5, 4)))
    shape = {"nothing": None, "sequences": (num,), "tokens": (num, 5)}[weighted]
    batch = cljax.Batch(x, y, shape and jnp.asarray(rng.random(shape)))

    def apply_fn(w, x):
        return jnp.tanh(x @ w)

    def of_sequences(scores, targets):
        return jnp.sum(squared_error(scores, targets), axis=-1)

    mean = losses.objective(apply_fn, squared_error)(w, batch)
    expected = dense_gauss_newton(apply_fn, squared_error, w, batch)
    # the mean over sequences of a sum over 5 tokens is 5 times the mean over tokens, weights of tokens aside
    for loss, factor in [(squared_error, 1), (of_sequences, 5)][: 1 if weighted == "tokens" else 2]:
        np.testing.assert_allclose(losses.objective(apply_fn, loss)(w, batch), factor * mean, rtol=1e-13)
        for size in (None, 2):
            op = curvature.gauss_newton(apply_fn, loss, w, batch, microbatch_size=size)
            bound = tolerance(jnp.float64, expected.size, factor * np.abs(expected).max())
            np.testing.assert_allclose(curvature.to_dense(op), factor * expected, rtol=0, atol=bound)


def test_the_check_of_the_losses_traces_once():
    traces = []

    def apply_fn(w, x):
        traces.append(0)
        return x @ w

    objective = jax.jit(losses.objective(apply_fn, squared_error))
    params, batch = jnp.ones((2, 4)), cljax.Batch(jnp.ones((3, 2)), jnp.zeros((3, 4)))
    for _ in range(3):
        objective(params, batch)
    assert len(traces) == 1


def test_scores_without_a_last_axis_are_told():
    params, batch = jnp.ones(2), cljax.Batch(jnp.ones((3, 2)), jnp.zeros(3))
    op = curvature.gauss_newton(lambda w, x: x @ w, lambda s, y: (s - y) ** 2, params, batch)
    with pytest.raises(ValueError, match=r"^apply_fn: expected scores of shape \(batch, \.\.\., K\), got \(3,\)"):
        _ = op @ params


def test_float16_counts_more_examples_than_it_has_numbers():
    batch = cljax.Batch(jnp.ones((70_000, 1), jnp.float16), jnp.zeros((70_000, 1), jnp.float16))
    w = jnp.ones((1, 1), jnp.float16)
    objective = losses.objective(_linear, _half_squares)
    ops = [curvature.hessian(objective, w, batch), curvature.gauss_newton(_linear, _half_squares, w, batch)]
    for found, expected in [(objective(w, batch), 0.5), *((op @ w, 1.0) for op in ops)]:
        assert abs(found.item() - expected) <= 4e-3  # a share, 1/70000, is denormal


def _linear(w, x):
    return x @ w


def _half_squares(scores, targets):
    return jnp.sum((scores - targets) ** 2, -1) / 2
