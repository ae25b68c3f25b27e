"""Fenchel-Young losses and the calculus of their regularizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from cljax import losses
from tests.oracles import eps, tolerance

REGULARIZERS = {
    "shannon": losses.shannon(),
    "squared": losses.squared(),
    "bernoulli": losses.bernoulli(),
    "poisson": losses.poisson(),
    "sparsemax": losses.sparsemax(),
    "tsallis-1.2": losses.tsallis(1.2),
    "tsallis-1.5": losses.tsallis(1.5),
    "tsallis-3": losses.tsallis(3.0),
    "power-1.5": losses.power(1.5),
    "power-4": losses.power(4.0),
}
EACH = pytest.mark.parametrize("name", REGULARIZERS)
SCORES = st.lists(st.floats(-8, 8), min_size=3, max_size=3)


def targets_like(name, rows):
    rows = np.asarray(rows, float)
    if name == "shannon" or name.startswith(("sparsemax", "tsallis")):
        return softmax(rows, axis=-1)
    if name == "poisson":
        return np.exp(rows)
    return 1 / (1 + np.exp(-rows)) if name == "bernoulli" else rows


@EACH
@given(scores=SCORES, raw=SCORES)
@settings(deadline=None, max_examples=25)
def test_loss_is_between_its_quadratic_bounds_and_zero_at_the_prediction(name, scores, raw):
    with jax.enable_x64(True):
        regularizer = REGULARIZERS[name]
        loss, f, y = losses.fenchel_young(regularizer), jnp.array(scores), jnp.asarray(targets_like(name, raw))
        residual = np.sum((regularizer.predict(f) - y) ** 2)
        size = 1 + np.abs(scores).max() + abs(regularizer.conjugate(f)) + abs(regularizer.value(y))
        slack = 64 * eps(f.dtype) * size
        assert loss(f, y) >= (regularizer.strong_convexity or 0) / 2 * residual - slack
        if regularizer.smoothness is not None:
            assert loss(f, y) <= regularizer.smoothness / 2 * residual + slack
        assert abs(loss(f, regularizer.predict(f))) <= slack


@pytest.mark.fast
@EACH
def test_value_conjugate_and_prediction_are_conjugate(name, x64):
    regularizer = REGULARIZERS[name]
    for seed in range(3):
        f = np.random.default_rng(seed).standard_normal(3)

        def negated(z, f=f):
            y = jnp.asarray(targets_like(name, z))
            return float(regularizer.value(y) - f @ y)

        found = minimize(negated, np.zeros(3), tol=1e-12)
        # the minimum is quadratic in the error of a numerical search, about 1e-5 at its default differences
        np.testing.assert_allclose(-found.fun, regularizer.conjugate(jnp.asarray(f)), rtol=0, atol=1e-8)
        at = regularizer.predict(jnp.asarray(f))
        gap = regularizer.value(at) + regularizer.conjugate(jnp.asarray(f)) - jnp.sum(at * f)
        assert abs(gap) <= 16 * eps(jnp.float64) * (1 + np.abs(f).max())


@EACH
def test_derivatives_are_those_of_the_conjugate(name, x64):
    regularizer = REGULARIZERS[name]
    loss = losses.fenchel_young(regularizer)
    rng = np.random.default_rng(0)
    f, y, v = rng.standard_normal(4), targets_like(name, rng.standard_normal(4)), rng.standard_normal(4)
    bound = {"rtol": 1e-13, "atol": 1e-13}
    np.testing.assert_allclose(jax.grad(loss)(f, y), regularizer.predict(jnp.asarray(f)) - y, **bound)
    np.testing.assert_allclose(jax.grad(regularizer.conjugate)(f), regularizer.predict(jnp.asarray(f)), **bound)
    hessian = jax.hessian(regularizer.conjugate)(f)
    np.testing.assert_allclose(jax.hessian(loss)(f, y), hessian, **bound)
    np.testing.assert_allclose(regularizer.hessian_product(jnp.asarray(f), v), hessian @ v, **bound)
    columns = jax.vmap(lambda u: regularizer.factor_product(jnp.asarray(f), u))(jnp.eye(4)).T
    rows = jax.vmap(lambda u: regularizer.factor_transpose_product(jnp.asarray(f), u))(jnp.eye(4)).T
    np.testing.assert_allclose(columns @ columns.T, hessian, **bound)
    np.testing.assert_allclose(rows, columns.T, **bound)
    if regularizer.strong_convexity is not None:
        assert np.linalg.eigvalsh(hessian)[-1] <= 1 / regularizer.strong_convexity + 1e-13


@EACH
def test_formulas_for_derivatives_are_limits_of_differences(name, x64):
    regularizer = REGULARIZERS[name]
    f = np.array([0.4, -0.3, 0.1])
    errors = []
    for step in (2e-3, 1e-3):
        slopes = [
            (regularizer.conjugate(f + step * e) - regularizer.conjugate(f - step * e)) / (2 * step) for e in np.eye(3)
        ]
        bends = [
            (regularizer.predict(f + step * e) - regularizer.predict(f - step * e)) / (2 * step) for e in np.eye(3)
        ]
        hessian = np.stack([regularizer.hessian_product(jnp.asarray(f), e) for e in np.eye(3)], axis=-1)
        errors.append(
            (np.abs(np.stack(slopes) - regularizer.predict(f)).max(), np.abs(np.stack(bends, -1) - hessian).max())
        )
    for coarse, fine in zip(*errors, strict=True):
        # second order, unless the differences are exact up to rounding
        assert fine < 1e-9 or 3.9 < coarse / fine < 4.1


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 3.0])
def test_entmax_meets_its_optimality_conditions(alpha, x64):
    regularizer = losses.tsallis(alpha)
    rng = np.random.default_rng(0)
    f = rng.standard_normal((50, 7)) * rng.choice([0.01, 1, 10], (50, 1))
    p = np.asarray(regularizer.predict(jnp.asarray(f)))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=16 * eps(jnp.float64))
    assert (p >= 0).all()
    assert (p == 0).any()
    # ∇Ω(p) = f − τ on the support, and f ≤ τ off it
    gap = f - p ** (alpha - 1) / (alpha - 1)
    threshold = np.array([row[q > 0].mean() for row, q in zip(gap, p, strict=True)])[:, None]
    slack = 64 * eps(jnp.float64) * (1 + np.abs(f))
    assert (np.abs(gap - threshold)[p > 0] <= slack[p > 0]).all()
    assert ((f - threshold)[p == 0] <= slack[p == 0]).all()


def tsallis_loss_oracle(alpha, f, y):
    """Ω(y) + Ω*(f) − <f, y> in long double; Ω* = min over τ of τ + Σ [..]₊ is exact to second order in τ."""
    f, y, alpha = (np.asarray(x, np.longdouble) for x in (f, y, alpha))
    high = f.max(-1, keepdims=True)
    low = high - 1 / (alpha - 1)

    def predicted(threshold):
        return np.maximum((alpha - 1) * (f - threshold), 0) ** (1 / (alpha - 1))

    for _ in range(80):
        middle = (low + high) / 2
        too_much = predicted(middle).sum(-1, keepdims=True) >= 1
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    p, scale = predicted(low), alpha * (alpha - 1)
    conjugate = low[..., 0] + np.sum(p * (f - low) - p**alpha / scale, axis=-1) + 1 / scale
    return (np.sum(y**alpha, axis=-1) - 1) / scale + conjugate - np.sum(f * y, axis=-1)


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("alpha", "gap"), [(1.0001, 90), (1.0001, 2e3), (1.001, 100), (1.001, 900), (1.001, 2e3), (1.01, 70), (1.02, 45)]
)
def test_tsallis_loss_where_the_prediction_underflows_or_vanishes(dtype, alpha, gap):
    with jax.enable_x64(dtype == jnp.float64):
        loss = losses.fenchel_young(losses.tsallis(alpha))
        f = jnp.array([[gap, 0.0, 0.0], [gap, gap - 1, 0.0]], dtype)
        for y in (np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])):
            found, expected = loss(f, jnp.asarray(y, dtype)), tsallis_loss_oracle(alpha, f, y)
            np.testing.assert_allclose(found, expected.astype(float), rtol=0, atol=tolerance(dtype, 3, 1 + gap))
            if dtype == jnp.float64:
                # the prediction is below exp(−40) here, so that the loss is linear in this score
                slope = loss(f.at[:, 2].add(0.5), y) - loss(f.at[:, 2].add(-0.5), y)
                gradient = jax.jacobian(loss)(f, y)[[0, 1], [0, 1], 2]
                np.testing.assert_allclose(slope, gradient, rtol=0, atol=2 * tolerance(dtype, 3, 1 + gap))


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 20.0])
def test_tsallis_in_single_precision_is_right_for_scores_right_to_rounding(alpha):
    regularizer = losses.tsallis(alpha)
    loss = losses.fenchel_young(regularizer)
    rng = np.random.default_rng(0)
    first = np.array([[0.16432516, -0.12826492, -0.05856578, -0.04725877, 0.05863373]], np.float32)
    for scale, num in ((0.01, 5), (0.1, 5), (1.0, 5), (10.0, 5), (0.1, 50), (1.0, 50)):
        f = (scale * rng.standard_normal((60, num))).astype(np.float32)
        f[:1] = first if (scale, num) == (0.1, 5) else f[:1]
        labels = np.r_[0, rng.integers(0, num, 59)]
        # the loss moves by |p − y|₁ ≤ 2 times what each score does
        bound = 2 * tolerance(jnp.float32, num, 1 + np.abs(f).max())
        for y in (np.eye(num)[labels], rng.dirichlet(np.ones(num), 60)):
            y = y.astype(np.float32)
            exact = y / y.astype(np.longdouble).sum(-1, keepdims=True)
            expected = tsallis_loss_oracle(alpha, f, exact).astype(float)
            np.testing.assert_allclose(loss(f, y), expected, rtol=0, atol=bound)
        p = np.asarray(regularizer.predict(jnp.asarray(f)))
        np.testing.assert_allclose(p.astype(float).sum(-1), 1, rtol=0, atol=tolerance(jnp.float32, num))
        # entries at the border of the support move without bound; what they cost does not
        exact = p / p.astype(np.longdouble).sum(-1, keepdims=True)
        assert np.abs(tsallis_loss_oracle(alpha, f, exact)).max() <= bound
        assert (loss(f, p) <= bound).all()  # not 0, as another program rounds p in another way
        columns = [regularizer.hessian_product(jnp.asarray(f), v) for v in rng.standard_normal((3, 60, num))]
        assert np.isfinite(columns).all()


@pytest.mark.parametrize("num", [3, 10, 1000])
@pytest.mark.parametrize("alpha", [1.2, 3.0, 8.0, 50.0])
def test_entmax_of_ties_is_uniform(num, alpha):
    regularizer, f = losses.tsallis(alpha), jnp.full(num, 0.3, jnp.float32)
    np.testing.assert_allclose(regularizer.predict(f), 1 / num, rtol=tolerance(jnp.float32, num))
    bend = regularizer.hessian_product(f, jax.nn.one_hot(0, num))[0]
    if num ** (alpha - 1) < 1e37:  # within the range of single precision
        np.testing.assert_allclose(bend, num ** (alpha - 2) * (1 - 1 / num), rtol=alpha * tolerance(jnp.float32, num))
    else:
        assert np.isfinite(bend)


@pytest.mark.fast
def test_entmax_between_softmax_and_sparsemax():
    assert losses.tsallis(1.0) == losses.shannon()
    assert losses.tsallis(2) == losses.sparsemax()
    f = jnp.array([[0.3, -0.2, 0.1]])
    np.testing.assert_allclose(losses.tsallis(1.001).predict(f), jax.nn.softmax(f), atol=2e-3)
    with pytest.raises(ValueError, match=r"alpha: expected a finite number of at least 1, got 0.5"):
        losses.tsallis(0.5)
    with pytest.raises(ValueError, match=r"r: expected a finite exponent above 1, got 1"):
        losses.power(1)


def test_softmax_is_sharply_two_strongly_convex(x64):
    hessian = jax.hessian(losses.shannon().conjugate)(jnp.array([3.0, 3.0, -50.0]))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[-1], 0.5, atol=1e-12)


@EACH
def test_labels_are_one_hot_targets(name):
    loss = losses.fenchel_young(REGULARIZERS[name])
    f = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, 3)), jnp.float32)
    labels = np.arange(10).reshape(5, 2) % 3
    assert loss(f, labels).shape == (5, 2)
    np.testing.assert_array_equal(loss(f, labels), loss(f, np.eye(3)[labels]))
    np.testing.assert_allclose(loss(f, labels), jax.jit(loss)(f, labels), rtol=8 * eps(jnp.float32))


@pytest.mark.fast
def test_soft_targets_include_their_entropy(x64):
    f, y = np.array([1.0, -1.0, 0.5]), np.array([0.7, 0.1, 0.2])
    expected = np.sum(y * (np.log(y) - np.log(softmax(f))))
    np.testing.assert_allclose(losses.fenchel_young(losses.shannon())(f, y), expected, rtol=1e-14)
    p = 1 / (1 + np.exp(-f))
    expected = np.sum(y * np.log(y / p) + (1 - y) * np.log((1 - y) / (1 - p)))
    np.testing.assert_allclose(losses.fenchel_young(losses.bernoulli())(f, y), expected, rtol=1e-14)


@pytest.mark.fast
def test_confident_and_right_does_not_cancel():
    f = np.array([18.0, 0.0, 1.0], np.float32)
    expected = np.log1p(np.exp(-18.0) + np.exp(-17.0))
    np.testing.assert_allclose(losses.fenchel_young(losses.shannon())(f, 0), expected, rtol=4 * eps(jnp.float32))
    found = losses.fenchel_young(losses.bernoulli())(f[:1], np.ones(1))
    np.testing.assert_allclose(found, np.log1p(np.exp(-18.0)), rtol=4 * eps(jnp.float32))


@EACH
@pytest.mark.parametrize("f", [[1e9, -1e9, 0.0], [1e9, 1e9, 1e9], [-1e9, -1e9, -1e9], [0.0, 0.0, 0.0]], ids=str)
def test_extreme_and_tied_scores_stay_finite_with_their_derivatives(name, f):
    loss, f = losses.fenchel_young(REGULARIZERS[name]), jnp.array(f, jnp.float32)
    if name == "poisson" and f[0] > 0:
        assert jnp.isposinf(loss(f, 1))  # a rate of exp(1e9) is beyond any dtype
        return
    for label in range(3):
        assert jnp.isfinite(loss(f, label))
        assert loss(f, label) >= 0
        assert jnp.all(jnp.isfinite(jax.grad(loss)(f, label)))
        if name != "power-4" or f.any():  # its conjugate |f|^(4/3) has no second derivative at 0
            assert jnp.all(jnp.isfinite(jax.hessian(loss)(f, label)))


@EACH
def test_nan_stays_nan_and_batches_are_rows(name):
    regularizer = REGULARIZERS[name]
    loss = losses.fenchel_young(regularizer)
    assert np.isnan(loss(jnp.array([jnp.nan, 0.0, 0.0]), 1))
    assert np.isnan(regularizer.predict(jnp.array([jnp.nan, 0.0, 0.0]))).any()
    f = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
    rows = jnp.stack([loss(row, 2) for row in f])
    np.testing.assert_allclose(jax.vmap(lambda row: loss(row, 2))(f), rows, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(loss(f, jnp.full(4, 2)), rows, rtol=1e-6, atol=1e-7)
    assert loss(f, jnp.full(4, 2)).dtype == jnp.float32


@pytest.mark.fast
def test_half_precision_is_computed_in_single():
    loss = losses.fenchel_young(losses.shannon())
    f = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    assert loss(f, 1).dtype == jnp.float32
    assert loss(f, 1) == loss(f.astype(jnp.float32), 1)
    assert jax.grad(loss)(f, 1).dtype == jnp.bfloat16


def test_equal_losses_are_one_static_argument():
    one, other = losses.fenchel_young(losses.shannon()), losses.fenchel_young(losses.shannon())
    assert one == other
    assert hash(one) == hash(other)
    assert one != losses.fenchel_young(losses.squared())
    assert losses.objective(jnp.dot, one) == losses.objective(jnp.dot, other)


@pytest.mark.fast
def test_wrong_labels_and_targets_are_no_numbers():
    f = jnp.zeros((2, 3))
    assert np.isnan(losses.fenchel_young(losses.shannon())(f, jnp.array([3, -1]))).all()
    assert np.isposinf(losses.fenchel_young(losses.shannon())(f, jnp.array([[0.5, 0.2, 0.1], [1.5, -0.5, 0.0]]))).all()
    assert np.isposinf(losses.fenchel_young(losses.bernoulli())(f, jnp.full((2, 3), 1.1))).all()


@pytest.mark.parametrize(
    ("scores", "targets", "error", "message"),
    [
        (jnp.zeros((2, 3)), jnp.zeros((2, 2)), ValueError, r"targets: expected shape \(2, 3\) .*got \(2, 2\)"),
        (jnp.zeros((2, 3)), jnp.zeros(2), TypeError, "targets: expected integer labels.*cast"),
        (jnp.zeros((2, 3), int), jnp.zeros(2, int), TypeError, "scores: expected a floating dtype"),
        (jnp.zeros(()), jnp.zeros(()), ValueError, "scores: expected shape"),
    ],
)
def test_bad_input(scores, targets, error, message):
    with pytest.raises(error, match=message):
        losses.fenchel_young(losses.shannon())(scores, targets)


def test_not_a_regularizer():
    with pytest.raises(TypeError, match="regularizer: expected a cljax Regularizer, got str"):
        losses.fenchel_young("shannon")


def test_a_class_ruled_out_by_minus_infinity_costs_nothing():
    loss, f = losses.fenchel_young(losses.shannon()), jnp.array([1.0, 2.0, -jnp.inf])
    np.testing.assert_allclose(loss(f, 1), np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert jnp.isfinite(jax.grad(loss)(f, 1)).all()
    assert jnp.isposinf(loss(f, 2))


def test_a_call_outside_of_jit_is_one_program_and_the_next_compiles_nothing():
    compiled = []

    def listen(name, *_, **__):
        compiled.append(name)

    scores, targets = jnp.asarray(np.random.default_rng(7).normal(size=(3, 19)), jnp.float32), jnp.arange(3)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for make in (losses.shannon, losses.bernoulli, lambda: losses.tsallis(1.37), lambda: losses.power(2.7)):
            found = []
            for _ in range(2):  # the regularizers are equal, and not the same
                loss = losses.fenchel_young(make())
                for part, arguments in ((loss, (scores, targets)), (loss.regularizer.predict, (scores,))):
                    compiled.clear()
                    part(*arguments)
                    found.append(compiled.count("/jax/core/compile/backend_compile_duration"))
            assert found == [1, 1, 0, 0]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_regularizer_that_is_not_hashable_is_told():
    class Mutable(type(losses.squared())):
        __hash__ = None

    with pytest.raises(TypeError, match=r"regularizer: expected one that is hashable, got Mutable .* frozen dataclass"):
        losses.fenchel_young(Mutable())
