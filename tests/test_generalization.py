"""Generalization bounds: they hold on random finite laws, their steps are equalities where they should be."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from cljax import losses, theory
from cljax.theory.laws import gini, renyi_half_size, shannon, total_variation

SEEDS = given(seed=st.integers(0, 10**6))
FEW = settings(deadline=None, max_examples=40)
SHANNON = losses.fenchel_young(losses.shannon())


def law(rng, *shape):
    return rng.dirichlet(np.full(int(np.prod(shape)), 0.5)).reshape(shape)


def draw(rng, joint, num):
    index = rng.choice(joint.size, num, p=joint.reshape(-1))
    return np.unravel_index(index, joint.shape)


def sample(rng, joint, num, predictions, inputs=False):
    """Inputs x and labels y of a joint law; features x // 2; losses of a predictor of the feature."""
    x, y = draw(rng, joint, num)
    t = x // 2
    scores = predictions[t]
    values = logsumexp(scores, axis=1) - scores[np.arange(num), y]
    return theory.Sample(t, y, values, x if inputs else None)


@SEEDS
@FEW
def test_deterministic_bounds_hold(seed):
    rng = np.random.default_rng(seed)
    p, predictions = law(rng, 6, 3), rng.standard_normal((3, 3))
    q = law(rng, 6, 3) if seed % 2 else p
    train, test = (sample(rng, joint, num, predictions, inputs=True) for joint, num in ((p, 40), (q, 30)))
    found = theory.generalization_bounds(train, test, loss=SHANNON)
    slack = 1e-12
    assert found.quantization <= slack
    assert abs(found.gap) <= found.distribution + slack
    assert found.distribution <= found.collapse + slack
    assert found.distribution <= found.collapse_shannon + slack
    # the floor is a sum in single precision
    assert found.range_low - 1e-5 <= found.gap <= found.range_high + slack
    assert found.information_loss >= -1e-12
    assert found.tv_features <= found.tv_inputs + 1e-12


def frequencies(*columns):
    return {key: count / len(columns[0]) for key, count in collections.Counter(zip(*columns, strict=True)).items()}


def distance(a, b):
    return sum(abs(a.get(key, 0) - b.get(key, 0)) for key in a.keys() | b.keys()) / 2


@SEEDS
@settings(deadline=None, max_examples=15)
def test_bounds_from_counts_in_dictionaries(seed):
    """(5a), (5b), (5d), (5e): every factor by its definition, and the bounds made of them."""
    rng = np.random.default_rng(seed)
    predictions = rng.standard_normal((3, 3))
    train, test = (sample(rng, law(rng, 6, 3), num, predictions, inputs=True) for num in (40, 30))
    found = theory.generalization_bounds(train, test, loss=SHANNON, delta=0.1)
    values = np.concatenate([train.losses, test.losses])
    laws = [frequencies(s.features, s.labels) for s in (train, test)]
    labels = [frequencies(s.labels) for s in (train, test)]
    osc, apart = values.max() - values.min(), distance(*laws)
    np.testing.assert_allclose(found.distribution, osc * apart, rtol=1e-12)
    inputs = [frequencies(s.inputs, s.labels) for s in (train, test)]
    np.testing.assert_allclose(found.information_loss, distance(*inputs) - apart, atol=1e-14)
    collapse = 0.0
    for (label,), share in labels[1].items():
        p, q = (frequencies(s.features[s.labels == label]) if (s.labels == label).any() else {} for s in (train, test))
        common = p and {t for t in p if p[t] == max(p.values())} & {t for t in q if q[t] == max(q.values())}
        collapse += share * (max(1 - sum(v**2 for v in part.values()) for part in (p, q)) if common else 1)
    np.testing.assert_allclose(found.feature_collapse, collapse, rtol=1e-12)
    np.testing.assert_allclose(found.collapse, osc * min(distance(*labels) + collapse, 1), rtol=1e-12)
    q = np.array(list(laws[1].values()))
    size = np.sqrt(q).sum() ** 2
    expected = osc * (np.sqrt((size - 1) / 40) / 2 + np.sqrt(np.log(10) / 80))
    np.testing.assert_allclose(found.probabilistic, expected, rtol=1e-12)
    cells = {(t, y): v for s in (train, test) for t, y, v in zip(s.features, s.labels, s.losses, strict=True)}
    length = np.sqrt(sum(v**2 for v in cells.values()))
    np.testing.assert_allclose(found.second_moment, length * np.sqrt((1 - np.sum(q**2)) / (40 * 0.1)), rtol=1e-12)
    # H(T|Y) = H(X|Y) − H(X|T, Y), of which the last is H(X, Y) − H(T, Y) as T is a function of X
    fine = theory.generalization_bounds(*(theory.Sample(s.inputs, s.labels, s.losses) for s in (train, test)))
    lost = shannon(np.array(list(inputs[1].values()))) - shannon(q)
    np.testing.assert_allclose(found.entropy_test, fine.entropy_test - lost, atol=1e-12)


@SEEDS
@FEW
def test_the_entropy_step_of_the_probabilistic_bound(seed):
    """(5d): Σ √(q(1 − q)) ≤ √((Σ √q)² − 1), an equality for uniform laws."""
    q = law(np.random.default_rng(seed), 2 + seed % 9)
    assert np.sum(np.sqrt(q * (1 - q))) <= np.sqrt(renyi_half_size(q) - 1) * (1 + 1e-12)
    q = np.full(2 + seed % 9, 1 / (2 + seed % 9))
    np.testing.assert_allclose(np.sum(np.sqrt(q * (1 - q))), np.sqrt(renyi_half_size(q) - 1), rtol=1e-12)


@SEEDS
@FEW
def test_features_given_labels_bound_the_total_variation(seed):
    """(5b): TV(T, Y) ≤ TV(Y) + mean b_y, by Gini impurity and by Shannon entropy."""
    rng = np.random.default_rng(seed)
    # features that all but collapse by class, as in trained networks
    peaked = [
        theory.Sample(np.where(rng.random(50) < 0.1, rng.integers(0, 3, 50), y), y, rng.random(50))
        for y in rng.integers(0, 3, (2, 50))
    ]
    found = theory.generalization_bounds(*peaked)
    assert found.tv_features <= found.tv_labels + found.feature_collapse + 1e-12
    assert abs(found.gap) <= found.distribution + 1e-12  # losses that no cell determines are paid for
    assert found.quantization > 0
    assert not found.assumptions["loss is a function of features and label"]
    assert np.isnan(found.range_low)


def test_collapsed_features_without_a_common_mode_bound_nothing():
    """H(T|Y) = 0 in both laws and TV = 1: the condition on modes is needed."""
    zeros = np.zeros(4, int)
    found = theory.generalization_bounds(
        theory.Sample(zeros, zeros, np.zeros(4)), theory.Sample(zeros + 1, zeros, np.ones(4))
    )
    assert found.entropy_train == found.entropy_test == 0
    assert found.tv_features == found.feature_collapse == 1
    assert found.shared_modes == 0
    assert found.gap == found.collapse == 1


def test_factors_against_their_definitions():
    rng = np.random.default_rng(0)
    x, y = draw(rng, law(rng, 4, 3), 200)
    test = theory.Sample(x, y, rng.random(200))
    found = theory.generalization_bounds(test, test)
    q = np.zeros((4, 3))
    np.add.at(q, (x, y), 1 / 200)
    np.testing.assert_allclose(found.entropy_test, shannon(q.reshape(-1)) - shannon(q.sum(0)), rtol=1e-12)
    np.testing.assert_allclose(found.renyi_half_size, np.sqrt(q).sum() ** 2, rtol=1e-12)
    np.testing.assert_allclose(found.gini, 1 - (q**2).sum(), rtol=1e-12)
    assert found.renyi_half_size <= found.num_cells
    assert found.gap == found.tv_features == found.quantization == 0
    # S2 is twice the generalized entropy of one-hot points with half the squared norm
    onehot = np.eye(12)[3 * x + y]
    np.testing.assert_allclose(found.gini, 2 * theory.conditional_entropy(losses.squared(), onehot, None), rtol=1e-5)


@SEEDS
@FEW
def test_entropy_bounds_the_probability_of_an_error(seed):
    """1 − max P ≤ S2(P), and ≤ H(P) / (2 log 2)."""
    p = law(np.random.default_rng(seed), 5)
    assert 1 - p.max() <= gini(p) + 1e-12
    assert 1 - p.max() <= shannon(p) / (2 * np.log(2)) + 1e-12


def test_expected_total_variation_and_second_moment():
    """(5d), (5e): E TV ≤ √((exp H_{1/2} − 1)/n)/2, and E|q̂ − q|² = S2/n, over samples; four standard errors."""
    rng = np.random.default_rng(0)
    for q in (np.full(8, 1 / 8), law(rng, 8), law(rng, 30)):
        num = 50
        draws = rng.multinomial(num, q, 2000) / num
        distances = np.array([total_variation(d, q) for d in draws])
        bound = np.sqrt((renyi_half_size(q) - 1) / num) / 2
        assert distances.mean() <= bound
        squares = np.sum((draws - q) ** 2, axis=1)
        error = squares.std() / np.sqrt(len(squares))
        assert abs(squares.mean() - gini(q) / num) <= 4 * error
        # McDiarmid: TV exceeds the bound by √(log(1/δ)/(2n)) with probability at most δ
        assert np.mean(distances > bound + np.sqrt(np.log(1 / 0.05) / (2 * num))) <= 0.05
    assert renyi_half_size(np.full(8, 1 / 8)) == pytest.approx(8)


def test_probabilistic_bounds_fail_less_often_than_stated():
    rng = np.random.default_rng(0)
    joint, predictions = law(rng, 6, 3), rng.standard_normal((3, 3))
    population = sample(rng, joint, 20000, predictions)
    draws = [
        theory.generalization_bounds(sample(rng, joint, 40, predictions), population, delta=0.1) for _ in range(100)
    ]
    failures = np.mean([abs(d.gap) > d.probabilistic for d in draws])
    second = np.mean([abs(d.gap) > d.second_moment for d in draws])
    assert failures <= 0.1
    assert second <= 0.1
    assert not draws[0].assumptions["features fixed before sampling"]


def test_losing_information_shrinks_the_bound():
    """Data processing, and H_{1/2}(T, Y) ≤ H_{1/2}(X, Y)."""
    rng = np.random.default_rng(0)
    a, b = (sample(rng, law(rng, 8, 2), 60, rng.standard_normal((4, 2)), inputs=True) for _ in range(2))
    fine = theory.generalization_bounds(*(theory.Sample(s.inputs, s.labels, s.losses) for s in (a, b)))
    coarse = theory.generalization_bounds(a, b)
    assert coarse.tv_features <= fine.tv_features == coarse.tv_inputs
    assert coarse.renyi_half_size <= fine.renyi_half_size
    assert coarse.information_loss == pytest.approx(fine.tv_features - coarse.tv_features)


@pytest.mark.parametrize("values", [[0.0, 5e-324], [-5e-324, 0.0, 5e-324], [1e-310, 3e-310], [-1.7e308, 1.7e308]])
def test_bins_of_numbers_at_the_ends_of_the_range(values):
    codes = theory.quantize(np.array(values)[:, None], 2)[:, 0]
    assert codes.tolist() == [0, 1, 1][: len(values)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rows_share_an_id_if_they_hold_nan(dtype):
    rows = np.array([[np.nan, 1], [np.nan, 1], [np.nan, 2], [0, 1], [-0.0, 1]], dtype)
    assert len(set(theory.group_ids(rows)[[0, 1]])) == 1
    assert len(set(theory.group_ids(rows)[[0, 2, 3]])) == 3
    assert len(set(theory.group_ids(rows)[[3, 4]])) == 1
    assert theory.group_ids(rows[:, :0]).tolist() == [0] * 5


def test_ids_of_two_integer_types_stay_apart():
    def num_cells(*features):
        samples = [theory.Sample(np.array(x), GOOD.labels, GOOD.losses) for x in features]
        return theory.generalization_bounds(*samples).num_cells

    big = np.array([2**53, 2**64 - 1], np.uint64)
    assert num_cells(big, [2**53 + 1, -1]) == 4
    assert num_cells(np.array([7, 8], np.uint64), np.array([7, 8], np.int8)) == 2


GOOD = theory.Sample(np.array([0, 1]), np.array([0, 1]), np.array([0.1, 0.2]))


@pytest.mark.parametrize(
    ("train", "options", "error", "message"),
    [
        (
            theory.Sample(np.array([0.1, 1]), GOOD.labels, GOOD.losses),
            {},
            TypeError,
            "train.features: .*theory.quantize",
        ),
        (
            theory.Sample(GOOD.features[:1], GOOD.labels, GOOD.losses),
            {},
            ValueError,
            "train.features: expected length 2",
        ),
        (
            theory.Sample(GOOD.features, GOOD.labels, np.array([0.1, np.nan])),
            {},
            ValueError,
            "train.losses: expected finite",
        ),
        (theory.Sample(*(np.zeros(0, int),) * 3), {}, ValueError, "train: expected at least one example"),
        (
            theory.Sample(np.zeros((2, 3), int), GOOD.labels, GOOD.losses),
            {},
            ValueError,
            "test.features: expected shape",
        ),
        (GOOD, {"delta": 0}, ValueError, "delta: expected a probability"),
        ((GOOD.features, GOOD.labels, GOOD.losses), {}, TypeError, "train: expected a theory.Sample, got tuple"),
        (
            theory.Sample(GOOD.features, np.eye(2, dtype=int), GOOD.losses),
            {},
            ValueError,
            "train.labels: expected shape",
        ),
        (
            theory.Sample(GOOD.features, 0, GOOD.losses),
            {},
            ValueError,
            r"train.labels: expected shape \(n,\), got \(\)",
        ),
    ],
)
def test_wrong_input(train, options, error, message):
    with pytest.raises(error, match=message):
        theory.generalization_bounds(train, GOOD, **options)


def test_features_must_come_from_the_inputs():
    torn = theory.Sample(np.array([0, 1]), GOOD.labels, GOOD.losses, inputs=np.array([5, 5]))
    with pytest.raises(ValueError, match="features: expected a function of inputs, but examples 0 and 1"):
        theory.generalization_bounds(torn, torn)
