"""The linear rate of SGD on strongly convex batch losses, over all sequences of batches; and wrong numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import theory

pytestmark = pytest.mark.fast


@given(seed=st.integers(0, 10**6), weakest=st.floats(0.05, 1), size=st.integers(1, 3), away=st.floats(0, 3))
@settings(deadline=None, max_examples=40)
def test_the_recursion_and_its_limit(seed, weakest, size, away):
    """E R_{k+1} − R_* ≤ (1 − mt/n)(E R_k − R_*) + (n − m)/n M − (mt/n) R_cap, and the limit.

    R_i(θ) = (θ − c_i)ᵀ H (θ − c_i) / 2 with 1 = L ≥ H ≥ σ, α = 1/L; all sequences of three batches of m out of n = 4.
    """
    rng, num = np.random.default_rng(seed), 4
    h, centers = np.array([1.0, weakest]), rng.standard_normal((num, 2))
    picks = [np.isin(np.arange(num), index) for index in itertools.combinations(range(num), size)]

    def mean_loss(theta, which):
        return np.mean(np.sum(h * (theta[..., None, :] - centers[which]) ** 2, -1) / 2, -1)

    everything, center = np.ones(num, bool), centers.mean(0)
    least = mean_loss(center, everything)
    capacity = least - np.mean([mean_loss(centers[which].mean(0), which) for which in picks])
    theta = (center + away * rng.standard_normal(2))[None]
    excesses, change = [float(mean_loss(theta, everything).mean() - least)], -np.inf
    for _ in range(3):
        following = [theta - h * (theta - centers[which].mean(0)) for which in picks]
        for which, new in zip(picks, following, strict=True):
            change = max(change, (mean_loss(new, ~which) - mean_loss(theta, ~which)).max())
        theta = np.concatenate(following)
        excesses.append(float(mean_loss(theta, everything).mean() - least))
    share = size * weakest / num
    limit = theory.linear_rate_limit(
        smoothness=1.0, strong_convexity=weakest, num_examples=num, batch_size=size, change=change, capacity=capacity
    )
    np.testing.assert_allclose(limit * share, (num - size) / num * change - share * capacity, atol=1e-13)
    for before, after in itertools.pairwise(excesses):
        assert after <= (1 - share) * before + share * limit + 1e-12
    assert excesses[-1] <= (1 - share) ** 3 * excesses[0] + (1 - (1 - share) ** 3) * limit + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_e5_from_the_optimum_the_printed_sign_fails(seed):
    """One step from θ_* raises the risk, which a limit below 0 forbids."""
    centers = np.random.default_rng(seed).standard_normal(4)
    after = np.mean([(c - centers.mean()) ** 2 / 2 for c in centers])  # batches of one, α = 1/L
    changes = [
        np.mean((c - np.delete(centers, i)) ** 2 - (centers.mean() - np.delete(centers, i)) ** 2) / 2
        for i, c in enumerate(centers)
    ]
    capacity = np.var(centers) / 2
    numbers = {"smoothness": 1.0, "strong_convexity": 1.0, "num_examples": 4, "batch_size": 1}
    limit = theory.linear_rate_limit(**numbers, change=max(changes), capacity=capacity)
    # mt/n = 1/4, and the excess before the step is 0
    assert after <= limit / 4 + 1e-12
    assert -3 * max(changes) - capacity < 0 < after


SIZES = {"num_examples": 4, "batch_size": 2}
STEPS = {"risk_gap": 1.0, "smoothness": 1.0, "learning_rate": 0.5} | SIZES
LIMIT = {"smoothness": 2.0, "strong_convexity": 1.0, "change": 0.5, "capacity": 0.25} | SIZES
NEAR = {"smoothness": 1.0, "learning_rate": 0.5, "mean_change": 0.0, "max_change": 0.0, "max_abs_change": 0.0} | SIZES


@pytest.mark.parametrize(
    ("fn", "numbers", "change", "message"),
    [
        (theory.neighbourhoods, NEAR, {"max_abs_change": -1.0}, "max_abs_change: expected at least"),
        (theory.neighbourhoods, NEAR, {"batch_size": 5}, "batch_size: expected at most num_examples = 4, got 5"),
        (theory.neighbourhoods, NEAR, {"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        (theory.linear_rate_limit, LIMIT, {"batch_size": 5}, "batch_size: expected at most num_examples = 4, got 5"),
        (theory.linear_rate_limit, LIMIT, {"batch_size": 0}, "batch_size: expected an integer of at least 1"),
        (theory.linear_rate_limit, LIMIT, {"capacity": -1.0}, "capacity: expected at least 0"),
        (theory.linear_rate_limit, LIMIT, {"strong_convexity": 3.0}, "strong_convexity: expected a number in"),
        (theory.linear_rate_limit, LIMIT, {"smoothness": np.inf}, "smoothness: expected a positive finite number"),
        (lambda **kw: theory.num_steps_to(0.1, **kw), STEPS, {"batch_size": 0}, "batch_size"),
        (lambda **kw: theory.num_steps_to(0.1, **kw), STEPS, {"batch_size": 9}, "batch_size"),
        (
            lambda **kw: theory.num_steps_to(0.1, **kw),
            STEPS,
            {"smoothness": -1.0},
            "smoothness: expected a number above",
        ),
        (lambda **kw: theory.num_steps_to(0.1, **kw), STEPS, {"learning_rate": -1.0}, "learning_rate: expected"),
    ],
)
def test_wrong_numbers(fn, numbers, change, message):
    with pytest.raises(ValueError, match=message):
        fn(**(numbers | change))
