"""Targets out of the domain of a regularizer are told before anything is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses

pytestmark = pytest.mark.fast

SIMPLEX = "expected probabilities: entries of at least 0 whose sum is 1"


@pytest.mark.parametrize(
    ("regularizer", "targets", "num_scores", "message"),
    [
        (losses.shannon(), [[0.5, 0.4]], 2, rf"targets\[0\]: {SIMPLEX}; got \[0.5, 0.4\]; divide each row by its sum"),
        (losses.sparsemax(), [[0.0, 1.0], [1.5, -0.5]], 2, rf"targets\[1\]: {SIMPLEX}.*clip or count again"),
        (losses.tsallis(1.5), [[2.0, 1.0]], 2, SIMPLEX),
        (losses.bernoulli(), [[3.0, 0.0]], 2, r"at most 1; got .*use losses.poisson\(\) for counts"),
        (losses.bernoulli(), [0, 4], 1, r"targets\[1\]: expected probabilities of events"),
        (losses.poisson(), [[-1.0, 2.0]], 2, "expected counts or rates: entries of at least 0"),
        (losses.shannon(), [0, 3], 3, r"targets\[1\]: expected a label in 0..2, got 3; renumber the classes"),
        (losses.squared(), [[np.inf, 0.0]], 2, r"targets\[0\]: expected finite values, got \[inf"),
        (
            losses.squared(),
            [[-5.2e29, 0.0]],
            2,
            r"any real vectors, and a value .* float32 can hold; got .*; scale the",
        ),
        (losses.poisson(), [[3e38, 0.0]], 2, r"at least 0, and a value .* float32 can hold; got .*; scale the targets"),
        (losses.power(3), [[np.nan, 0.0]], 2, r"expected finite values.*weight 0"),
    ],
)
def test_out_of_domain(regularizer, targets, num_scores, message):
    scores = jnp.zeros((len(targets), num_scores))
    with pytest.raises(ValueError, match=message):
        losses.check_targets(regularizer, np.asarray(targets), scores)
    with pytest.raises(ValueError, match=message):
        losses.check_targets(losses.fenchel_young(regularizer), np.asarray(targets), scores)


def test_good_targets_are_encoded():
    found = losses.check_targets(losses.shannon(), np.array([1, 0]), jnp.zeros((2, 2)))
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(losses.check_targets(losses.poisson(), [[3, 0]], jnp.zeros((1, 2))), [[3, 0]])
    assert losses.check_targets(lambda s, y: s[..., 0], np.array([7.0]), jnp.zeros((1, 2))).tolist() == [7.0]


def test_rows_of_weight_0_need_not_be_in_the_domain():
    targets, scores, weight = np.array([[0.0, 0.0], [0.25, 0.75], [np.nan, 2.0]]), jnp.zeros((3, 2)), [0, 2, 0]
    found = losses.check_targets(losses.shannon(), targets, scores, weight=weight)
    np.testing.assert_array_equal(found, [[0.25, 0.75]] * 3)
    traced = jax.jit(lambda y, w: losses.check_targets(losses.shannon(), y, scores, weight=w))
    np.testing.assert_array_equal(traced(targets, jnp.asarray(weight)), found)
    with pytest.raises(ValueError, match=r"targets\[2\]: expected finite"):
        losses.check_targets(losses.shannon(), targets, scores, weight=[0, 2, 1])
    with pytest.raises(ValueError, match=r"targets\[2\]: expected finite"):  # and no row that it stands for
        losses.check_targets(losses.shannon(), targets, scores, weight=[0, 0, 1])
