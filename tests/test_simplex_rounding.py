"""Edges of the simplex: coarse dtypes, one class, classes ruled out, entropies near Shannon's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses

REGULARIZERS = [losses.shannon(), losses.tsallis(1.2), losses.tsallis(1.5), losses.sparsemax(), losses.tsallis(3.0)]
EACH = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)


@EACH
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_soft_targets_of_half_precision_are_on_the_simplex(regularizer, dtype):
    keys = jax.random.split(jax.random.key(0))
    scores = jax.random.normal(keys[0], (200, 10))
    exact = jax.nn.softmax(jax.random.normal(keys[1], (200, 10)))
    loss = losses.fenchel_young(regularizer)
    coarse = loss(scores, exact.astype(dtype))
    # the loss is Lipschitz in its target up to the size of the scores and of the logarithm
    slack = 20 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(coarse, loss(scores, exact), atol=slack * float(jnp.abs(scores).max()))
    assert jnp.isinf(loss(scores[:1], (1.05 * exact[:1]).astype(dtype))).all()


@EACH
def test_the_only_class_is_certain(regularizer):
    assert losses.fenchel_young(regularizer)(jnp.array([[3.0], [-2.0]]), jnp.array([0, 0])).tolist() == [0.0, 0.0]


@EACH
def test_a_class_ruled_out_by_minus_infinity(regularizer):
    loss = losses.fenchel_young(regularizer)
    scores = jnp.array([1.0, 0.5, -jnp.inf])
    for target in ([1.0, 0.0, 0.0], [0.5, 0.5, 0.0]):
        two = loss(scores[:2], jnp.array(target[:2]))
        assert float(loss(scores, jnp.array(target))) == pytest.approx(float(two), rel=1e-6, abs=1e-7)
    np.testing.assert_allclose(jax.grad(loss)(scores, jnp.array([1.0, 0.0, 0.0]))[2], 0)
    assert loss(scores, jnp.array([0.0, 0.0, 1.0])) == jnp.inf


@pytest.mark.parametrize("excess", [1e-2, 1e-3, 1e-4, 1e-6])
def test_entropies_near_shannons_keep_their_digits(excess):
    # the Tsallis loss moves from the softmax loss by O(α − 1); the oracle for the rest is float64
    scores = jnp.array([[1.0, 0.2, -3.0, 2.5], [0.0, 0.0, 0.0, 4.0]])
    targets = jnp.array([[0.125, 0.25, 0.25, 0.375], [0.0, 1.0, 0.0, 0.0]])
    near, limit = losses.tsallis(1 + excess), losses.shannon()
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) for x in (scores, targets)]
        predicted, loss = near.predict(wide[0]), losses.fenchel_young(near)(*wide)
        assert float(jnp.abs(predicted - limit.predict(wide[0])).max()) <= 10 * excess
        np.testing.assert_allclose(loss, losses.fenchel_young(limit)(*wide), rtol=20 * excess)
    np.testing.assert_allclose(near.predict(scores), predicted, atol=64 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(losses.fenchel_young(near)(scores, targets), loss, rtol=256 * np.finfo(np.float32).eps)
