"""The normalization contract: one weighted mean, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature
from cljax._batch import as_batch, split_batch, weighted_mean
from tests.oracles import tolerance
from tests.problems import NAMES, problem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 5, 100])
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
    from cljax import curvature, losses

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
