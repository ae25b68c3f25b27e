"""Generalized entropies: the decomposition of the risk, Shannon's and the covariance's closed forms, laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import losses, theory
from tests.oracles import eps, tolerance
from tests.problems import linear
from tests.test_losses import REGULARIZERS, targets_like


def shannon(p):
    p = np.asarray(p, float).reshape(-1)
    p = p[p > 0] / p.sum()
    return -np.sum(p * np.log(p))


def table(labels, groups):
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    return counts


@pytest.mark.parametrize("name", REGULARIZERS)
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_risk_is_floor_plus_excess_for_every_model(name, seed):
    """(2h) and (4a): E d(Y, f(X)) = H(Y|X) + E d(E[Y|X], f(X)), and so the floor is below the risk of any f."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        regularizer, loss = REGULARIZERS[name], losses.fenchel_young(REGULARIZERS[name])
        groups = rng.integers(0, 4, 12)
        weight = rng.uniform(0.5, 2, 12)
        y = targets_like(name, rng.standard_normal((12, 3)))
        scores = rng.standard_normal((4, 3))[groups]
        means = np.stack([np.average(y[groups == g], axis=0, weights=weight[groups == g]) for g in groups])
        floor = theory.conditional_entropy(regularizer, y, groups, weight=weight)
        risk = np.average(loss(jnp.asarray(scores), y), weights=weight)
        excess = np.average(loss(jnp.asarray(scores), means), weights=weight)
        slack = 64 * eps(jnp.float64) * (1 + abs(risk) + np.abs(regularizer.value(jnp.asarray(y))).max())
        assert abs(risk - floor - excess) <= slack
        assert floor >= -slack


def test_it_is_shannons_for_labels(x64):
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 40), rng.integers(0, 5, 40)
    counts = table(labels, groups)
    expected = sum(row.sum() / 40 * shannon(row) for row in counts)
    found = theory.conditional_entropy(losses.shannon(), labels, groups, num_classes=3)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_allclose(
        theory.conditional_entropy(losses.shannon(), labels, None, num_classes=3), shannon(counts.sum(0)), rtol=1e-13
    )
    mutual = shannon(counts.sum(0)) + shannon(counts.sum(1)) - shannon(counts)
    found = theory.bregman_information(losses.shannon(), labels, groups, num_classes=3)
    np.testing.assert_allclose(found, mutual, rtol=1e-12)


def test_it_is_half_the_trace_of_the_covariance_for_squares(x64):
    rng = np.random.default_rng(0)
    y, groups = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    parts = [y[groups == g] for g in range(3)]
    expected = sum(len(part) / 30 * np.trace(np.cov(part.T, bias=True)) / 2 for part in parts)
    np.testing.assert_allclose(theory.conditional_entropy(losses.squared(), y, groups), expected, rtol=1e-13)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=5)
def test_soft_labels_leave_cross_entropy_the_entropy_of_their_mean(seed):
    """(4b): the least E CE(Y, f(X)) is E H(ȳ_X), and the loss with Ω(y) is below it by E H(Y)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        y, groups = rng.dirichlet(np.ones(3), 20), rng.integers(0, 4, 20)
        means = np.stack([y[groups == g].mean(0) for g in groups])
        least = np.mean([shannon(row) for row in means])
        cross = -np.mean(np.sum(y * np.log(means), 1))  # of the best model, whose prediction is the mean
        np.testing.assert_allclose(cross, least, rtol=1e-12)
        found = theory.conditional_entropy(losses.shannon(), y, groups)
        np.testing.assert_allclose(found, least - np.mean([shannon(row) for row in y]), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["squared", "bernoulli", "poisson", "tsallis-1.5", "power-4"])
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=3)
def test_a_map_of_the_input_loses_the_difference_of_mean_values(name, seed):
    """(4d) for every Ω: Ent(Y) ≥ H(Y|T) ≥ H(Y|X), and the loss is E Ω(E[Y|X]) − E Ω(E[Y|T])."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        regularizer, x = REGULARIZERS[name], rng.integers(0, 6, 20)
        y, t = targets_like(name, rng.standard_normal((20, 3))), x // 2
        everything, coarse, fine = (float(theory.conditional_entropy(regularizer, y, ids)) for ids in (None, t, x))
        slack = 64 * eps(jnp.float64) * (1 + np.abs(regularizer.value(jnp.asarray(y))).max())
        assert everything >= coarse - slack
        assert coarse >= fine - slack
        inside = [
            np.mean(regularizer.value(jnp.asarray(np.stack([y[ids == i].mean(0) for i in ids])))) for ids in (x, t)
        ]
        np.testing.assert_allclose(theory.information_loss(regularizer, y, x, t), inside[0] - inside[1], atol=slack)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_losing_more_information_raises_the_floor(seed):
    """(4d): Ent(Y) ≥ H(Y|T) ≥ H(Y|X) for T a function of X, and the loss of information grows along layers."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        labels, x = rng.integers(0, 3, 30), rng.integers(0, 8, 30)
        layers = [x, x // 2, x // 4, np.zeros_like(x)]
        floors = [float(theory.conditional_entropy(losses.shannon(), labels, t, num_classes=3)) for t in layers]
        assert all(b >= a - 1e-14 for a, b in itertools.pairwise(floors))
        lost = [float(theory.information_loss(losses.shannon(), labels, x, t, num_classes=3)) for t in layers]
        np.testing.assert_allclose(lost, np.array(floors) - floors[0], atol=1e-14)
        # I(X; Y | T) = I(X; Y) − I(T; Y)
        told = [float(theory.bregman_information(losses.shannon(), labels, t, num_classes=3)) for t in layers]
        np.testing.assert_allclose(lost, told[0] - np.array(told), atol=1e-13)


def test_distinct_inputs_have_no_floor_for_labels():
    assert theory.conditional_entropy(losses.shannon(), np.arange(9) % 3, np.arange(9), num_classes=3) == 0


def test_examples_without_weight_do_not_count(x64):
    labels, groups = np.array([0, 1, 1, 9]), np.array([0, 0, 1, 1])
    found = theory.conditional_entropy(losses.shannon(), labels, groups, weight=[1, 1, 2, 0], num_classes=2)
    np.testing.assert_allclose(found, 0.5 * np.log(2), rtol=1e-14)
    alone = theory.conditional_entropy(losses.shannon(), labels, [0, 0, 1, 2], weight=[1, 1, 2, 0], num_classes=2)
    np.testing.assert_allclose(alone, 0.5 * np.log(2), rtol=1e-14)


def in_double(y, groups, weight):
    """H(Y|X) and I(X; Y) of squares in NumPy, in float64."""
    sums = np.bincount(groups, weight)
    means = np.bincount(groups, weight * y) / sums
    within = np.average((y - means[groups]) ** 2, weights=weight) / 2
    return within, np.average((means - np.average(y, weights=weight)) ** 2, weights=sums) / 2


def test_values_far_above_the_entropy_do_not_cancel_in_single_precision():
    assert theory.conditional_entropy(losses.squared(), np.array([[10000.0], [10001.0]]), None) == 0.125
    rng = np.random.default_rng(0)
    y, groups = (2000 + rng.standard_normal((20000, 1))).astype(np.float32), rng.integers(0, 50, 20000)
    within, between = in_double(y[:, 0].astype(float), groups, np.ones(20000))
    rtol = tolerance(jnp.float32, 1)
    np.testing.assert_allclose(theory.conditional_entropy(losses.squared(), y, groups), within, rtol=rtol)
    np.testing.assert_allclose(theory.bregman_information(losses.squared(), y, groups), between, rtol=rtol)
    coarse = in_double(y[:, 0].astype(float), groups % 7, np.ones(20000))[0]
    lost = theory.information_loss(losses.squared(), y, groups, groups % 7)
    np.testing.assert_allclose(lost, coarse - within, rtol=rtol)
    assert lost.dtype == jnp.float32


def test_the_floor_of_the_risk_does_not_cancel_either():
    rng = np.random.default_rng(0)
    y, groups = (2000 + rng.standard_normal((100, 1))).astype(np.float32), rng.integers(0, 9, 100)
    loss, x = losses.fenchel_young(losses.squared()), jnp.asarray(groups[:, None], jnp.float32)

    def floor(y):
        return theory.risk_bounds(linear, loss, jnp.ones((1, 1)), (x, y), groups=groups).floor

    expected = in_double(y[:, 0].astype(float), groups, np.ones(100))[0]
    np.testing.assert_allclose([floor(y), jax.jit(floor)(y)], [expected] * 2, rtol=tolerance(jnp.float32, 1))


@pytest.mark.parametrize("size", [5e-324, 1e-46, 1e-40, 3e38, 1e39, 1e308])
def test_the_size_of_all_weights_does_not_matter(size):
    labels, groups = np.array([0, 1, 1, 2, 0, 1]), np.array([0, 0, 1, 1, 1, 2])
    for call in (theory.conditional_entropy, theory.bregman_information):
        found = call(losses.shannon(), labels, groups, weight=np.full(6, size), num_classes=3)
        np.testing.assert_array_equal(found, call(losses.shannon(), labels, groups, num_classes=3))


def test_soft_labels_rounded_to_single_precision_are_in_the_domain():
    rng = np.random.default_rng(0)
    y = (rng.dirichlet(np.ones(100), 8) * (1 + 1e-5)).astype(np.float32)
    exact = y.astype(float) / y.sum(1, dtype=float, keepdims=True)
    expected = shannon(exact.mean(0)) - np.mean([shannon(row) for row in exact])
    found = theory.conditional_entropy(losses.shannon(), y, None)
    np.testing.assert_allclose(found, expected, rtol=tolerance(jnp.float32, 1))


def test_groups_of_equal_rows():
    a = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]])
    assert theory.group_ids(a).tolist() == [0, 0, 1]
    assert theory.group_ids(a, np.array([0, 1, 1])).tolist() == [0, 1, 2]
    codes = theory.quantize(np.linspace(0, 1, 11)[:, None], 5)
    assert codes[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert theory.quantize(np.full((3, 1), 7.0), 4).tolist() == [[0]] * 3
    assert theory.quantize(np.array([-1e308, 0.0, 1e308]), 4).tolist() == [0, 2, 3]
    assert theory.group_ids(np.zeros((0, 2))).shape == (0,)


H = theory.conditional_entropy
LABELS = np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: H(losses.shannon(), LABELS, [0, 1], num_classes=2), ValueError, "groups: .*one id an"),
        (lambda: H(losses.shannon(), LABELS, [0.1, 1.2, 1.2], num_classes=2), TypeError, "quantize"),
        (lambda: H(losses.shannon(), LABELS, LABELS), ValueError, "num_classes: expected"),
        (lambda: H(losses.shannon(), LABELS, LABELS, num_classes=1), ValueError, "num_classes: expected an"),
        (lambda: H(losses.shannon(), [0, 2], [0, 0], num_classes=2), ValueError, "label in 0..1, got 2"),
        (lambda: H(losses.bernoulli(), [[3.0]], [0]), ValueError, r"losses.poisson\(\)"),
        (lambda: H(losses.shannon(), LABELS, LABELS, weight=[1], num_classes=2), ValueError, "weight"),
        (lambda: H(losses.shannon(), LABELS, LABELS, weight=[1, -1, 1], num_classes=2), ValueError, "weight: .*at"),
        (lambda: H(losses.shannon(), LABELS, LABELS, weight=[0, 0, 0], num_classes=2), ValueError, "not all 0"),
        (lambda: H(losses.shannon(), LABELS, LABELS, weight=[1, np.nan, 1], num_classes=2), ValueError, "finite"),
        (lambda: H("shannon", LABELS, LABELS, num_classes=2), TypeError, "regularizer: expected"),
        (
            lambda: theory.information_loss(losses.shannon(), LABELS, [0, 0, 1], [0, 1, 1], num_classes=2),
            ValueError,
            "feature_groups: expected a function of groups, but examples 0 and 1",
        ),
        (lambda: theory.quantize(np.array([np.nan]), 3), ValueError, "features: expected finite"),
        (lambda: theory.quantize(np.zeros(3), 0), ValueError, "num_bins: expected an integer of at least 1"),
        (lambda: theory.quantize(np.zeros(3), 2.5), TypeError, "num_bins: expected a static integer"),
        (lambda: theory.quantize(np.zeros((0, 3)), 2), ValueError, "features: expected shape .*n at least 1"),
        (lambda: theory.quantize(1.0, 2), ValueError, "features: expected shape"),
        (lambda: theory.group_ids(np.zeros(3), np.zeros(4)), ValueError, "arrays: expected arrays of one length"),
        (lambda: theory.group_ids(3), ValueError, "arrays: expected arrays of one length"),
    ],
)  # fmt: skip
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
