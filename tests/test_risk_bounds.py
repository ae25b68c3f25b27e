"""Bounds of the loss and the risk: they hold, they are tight, and what the papers print does not hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import cljax
from cljax import losses, theory
from cljax._batch import pad_batch
from cljax.losses.squared import Squared
from tests.oracles import dense_jacobian, eps, flat, tolerance
from tests.problems import SHANNON, linear, mlp, problem
from tests.test_losses import REGULARIZERS, targets_like


def random_net(seed, hidden=6, outputs=4, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (3, hidden), "b1": (hidden,), "w2": (hidden, outputs)}
    return {name: jnp.asarray(scale * rng.standard_normal(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", REGULARIZERS)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 2))
@settings(deadline=None, max_examples=8)
def test_true_bounds_cover_every_example(name, seed, scale):
    """(2d) to (2f), on any targets of the domain."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        y = targets_like(name, rng.standard_normal((9, 4)))
        batch = cljax.Batch(jnp.asarray(rng.standard_normal((9, 3))), jnp.asarray(y))
        loss = losses.fenchel_young(REGULARIZERS[name])
        found = theory.risk_bounds(mlp, loss, random_net(seed, scale=scale), batch)
        assert found.covered.all()
        assert float(found.coverage) == 1
        assert found.risk_lower <= found.risk * (1 + 1e-12)
        assert (found.lower >= 0).all()


@pytest.mark.parametrize("outputs", [2, 3, 10])
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 3))
@settings(deadline=None, max_examples=10)
def test_one_hot_bounds_cover_and_are_tighter_than_the_quadratic_ones(outputs, seed, scale):
    """(2g), which at K = 2 and equal eigenvalues is an equality."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        batch = cljax.Batch(jnp.asarray(rng.standard_normal((9, 3))), rng.integers(0, outputs, 9))
        params = random_net(seed, outputs=outputs, scale=scale)
        tight = theory.risk_bounds(mlp, SHANNON, params, batch)
        loose = theory.risk_bounds(mlp, SHANNON, params, batch, kind="softmax")
        assert tight.kind == "softmax_one_hot"
        assert tight.covered.all()
        assert loose.covered.all()
        between = theory.risk_bounds(mlp, SHANNON, params, batch, kind="softmax_log")
        assert between.covered.all()
        assert (between.upper <= loose.upper * (1 + 1e-12)).all()
        assert (tight.upper <= between.upper * (1 + 1e-12)).all()
        if outputs == 2:  # one direction in the complement of ones: λ_min = λ_max
            # rounding of the residual is relative to |r|, of 1 − |r| to that
            plain = (tight.loss > 1e-3) & (tight.loss < 10)
            np.testing.assert_allclose(tight.lower[plain], tight.loss[plain], rtol=1e-6)
            np.testing.assert_allclose(tight.upper[plain], tight.loss[plain], rtol=1e-6)


def test_parts_against_dense_jacobians_and_gradients(x64):
    case = problem("softmax-mlp")
    found = theory.risk_bounds(case.apply_fn, case.loss, case.params, case.batch)
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(7, 3, -1)
    basis = np.linalg.eigh(np.eye(3) - 1 / 3)[1][:, 1:]
    inside = np.stack([np.linalg.eigvalsh(basis.T @ rows @ rows.T @ basis) for rows in jacobian])
    np.testing.assert_allclose(found.lambda_min, inside[:, 0], rtol=1e-10)
    np.testing.assert_allclose(found.lambda_max, inside[:, -1], rtol=1e-12)
    for i in range(7):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], case.batch)
        gradient = flat(jax.grad(case.objective)(case.params, one))
        np.testing.assert_allclose(found.gradient_energy[i], gradient @ gradient, rtol=1e-11)
    low = found.gradient_energy / found.lambda_max
    assert (low <= found.residual_norm**2 * (1 + 1e-12)).all()
    assert (found.residual_norm**2 <= found.gradient_energy / found.lambda_min * (1 + 1e-10)).all()
    energy = theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch)
    np.testing.assert_allclose(np.mean(found.gradient_energy), energy, rtol=1e-12)


def test_a_linear_head_with_bias_has_no_small_eigenvalue(x64):
    """(2c): A_x = (1 + |h|²) I + W J_h J_hᵀ Wᵀ."""

    def model(params, x):
        return jnp.tanh(x @ params["w"]) @ params["out"] + params["bias"][None]

    rng = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(rng.standard_normal((3, 5))),
        "out": jnp.asarray(rng.standard_normal((5, 4))),
        "bias": jnp.zeros(4),
    }
    x = jnp.asarray(rng.standard_normal((6, 3)))
    found = theory.structure_extremes(model, SHANNON, params, (x, jnp.zeros(6, int)), subspace="full")
    assert (found.per_example_min >= 1 + jnp.sum(jnp.tanh(x @ params["w"]) ** 2, -1) - 1e-12).all()


def test_heads_of_fewer_directions_are_void_only_in_the_full_space(x64):
    """(2b): scores that sum to a constant leave λ_min(A) = 0, but not on the complement of ones."""

    def model(params, x):
        free = x @ params
        return jnp.concatenate([free, -jnp.sum(free, -1, keepdims=True)], -1)

    batch = cljax.Batch(jnp.array([[2.0]]), jnp.array([0]))
    params = jnp.ones((1, 2))
    assert theory.structure_extremes(model, SHANNON, params, batch, subspace="full").lambda_min < 1e-12
    found = theory.risk_bounds(model, SHANNON, params, batch)
    np.testing.assert_allclose(found.lambda_min, [4.0], rtol=1e-12)
    assert not found.void.any()
    void = theory.risk_bounds(model, losses.fenchel_young(losses.squared()), params, (batch.inputs, jnp.zeros((1, 3))))
    assert void.void.all()
    assert np.isposinf(void.upper).all()
    assert not void.assumptions["lambda_min above rounding"].any()
    assert np.isposinf(void.risk_upper)


def test_conflicting_labels_have_a_floor(x64):
    """(2h), (2i): with groups the excess is bounded and the floor is added; without, each example's own loss."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, 3))[[0, 0, 0, 1, 1, 2, 3, 3]]
    labels = np.array([0, 1, 2, 3, 3, 1, 0, 1])
    weight = rng.uniform(0.5, 2, 8)
    batch = cljax.Batch(jnp.asarray(inputs), labels, jnp.asarray(weight))
    groups = theory.group_ids(inputs)
    alone = theory.risk_bounds(mlp, SHANNON, random_net(1), batch)
    found = theory.risk_bounds(mlp, SHANNON, random_net(1), batch, groups=groups)
    assert alone.covered.all()
    assert found.covered.all()
    assert found.kind == "softmax_log"
    floor = theory.conditional_entropy(losses.shannon(), labels, groups, weight=weight, num_classes=4)
    np.testing.assert_allclose(found.floor, floor, rtol=1e-13)
    assert abs(found.residual) <= 64 * eps(jnp.float64) * found.risk
    assert found.risk_lower <= found.risk <= found.risk_upper
    assert floor <= found.risk_lower
    np.testing.assert_allclose(alone.risk, found.risk, rtol=1e-14)
    # groups of different inputs break the identity, and the residual tells
    wrong = theory.risk_bounds(mlp, SHANNON, random_net(1), batch, groups=np.zeros(8, int))
    assert abs(wrong.residual) > 1e-3


def test_perfect_predictions_and_nan(x64):
    batch = cljax.Batch(jnp.eye(2), jnp.eye(2))
    squared = losses.fenchel_young(losses.squared())
    perfect = theory.risk_bounds(linear, squared, jnp.eye(2), batch)
    np.testing.assert_array_equal(perfect.lower, 0)
    assert (perfect.upper <= (32 * eps(jnp.float64)) ** 2).all()
    assert perfect.covered.all()
    broken = theory.risk_bounds(linear, squared, jnp.full((2, 2), jnp.nan), batch)
    for name in ("loss", "lower", "upper", "gradient_energy", "risk", "risk_upper", "risk_lower"):
        assert np.isnan(getattr(broken, name)).all()
    assert not broken.covered.any()


def test_confident_predictions_in_single_precision():
    """1 − p is below eps, and still the bounds say the right thing."""
    params = jnp.array([[20.0, 0.0, 0.0]])
    found = theory.risk_bounds(linear, SHANNON, params, (jnp.array([[1.0]]), jnp.array([0])))
    rho = np.linalg.norm(softmax([20.0, 0.0, 0.0]) - [1, 0, 0])
    np.testing.assert_allclose(found.residual_norm, [rho], rtol=1e-5)
    assert found.covered.all()


# what the papers print, and what fails of it


def test_e1_the_printed_upper_bound_for_softmax_fails(x64):
    batch = cljax.Batch(jnp.ones((1, 1)), jnp.array([0]))
    found = theory.risk_bounds(linear, SHANNON, jnp.zeros((1, 2)), batch, kind="paper_softmax")
    np.testing.assert_allclose(found.loss, np.log(2))
    np.testing.assert_allclose(found.upper, 0.25)
    assert not found.covered.any()
    mended = theory.risk_bounds(linear, SHANNON, jnp.zeros((1, 2)), batch, kind="softmax")
    np.testing.assert_allclose(mended.upper, 1.0)
    assert mended.covered.all()
    # a uniform predictor of ten classes breaks the printed form too: ln(10) / 9 is above 1/4 of |r|²/p_min / 9
    uniform = theory.risk_bounds(linear, SHANNON, jnp.zeros((1, 10)), batch, kind="paper_softmax")
    assert not uniform.covered.any()
    assert theory.risk_bounds(linear, SHANNON, jnp.zeros((1, 10)), batch, kind="softmax").covered.all()


def test_e2_the_printed_lower_bound_for_softmax_is_loose(x64):
    """It holds, a factor 8 ln 2 below the sharp one, which K = 2 and p near y = 1/2 attain."""
    near = jnp.array([[1e-3, 0.0]])
    batch = cljax.Batch(jnp.ones((1, 1)), jnp.array([[0.5, 0.5]]))
    sharp = theory.risk_bounds(linear, SHANNON, near, batch, kind="softmax")
    printed = theory.risk_bounds(linear, SHANNON, near, batch, kind="paper_softmax")
    np.testing.assert_allclose(sharp.lower, sharp.loss, rtol=1e-6)
    np.testing.assert_allclose(sharp.lower / printed.lower, 8 * np.log(2), rtol=1e-6)


def test_e3_cross_entropy_is_not_strongly_convex_in_logits_and_a_quarter_smooth(x64):
    f, ones = jnp.array([0.3, -1.0, 2.0]), jnp.ones(3)
    conjugate = losses.shannon().conjugate

    def remainder(f, v):
        return conjugate(f + v) - conjugate(f) - losses.shannon().predict(f) @ v

    # along ones the printed convexity, min p |v|², is above the remainder, which is 0
    printed = jnp.min(losses.shannon().predict(f)) * jnp.sum((5 * ones) ** 2)
    assert abs(remainder(f, 5 * ones)) < 1e-13 < 0.1 < printed
    rng = np.random.default_rng(0)
    for _ in range(200):
        f, v = (jnp.asarray(3 * rng.standard_normal(3)) for _ in range(2))
        assert remainder(f, v) <= v @ v / 4 + 1e-13
    v = jnp.array([1e-3, -1e-3])
    np.testing.assert_allclose(remainder(jnp.zeros(2), v), v @ v / 4, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Scaled(Squared):
    """(a/2)|y|², with ∇²Ω = a I."""

    a: float = 1.0

    @property
    def strong_convexity(self):
        return self.a

    @property
    def smoothness(self):
        return self.a

    def divergence(self, scores, targets):
        return self.a / 2 * jnp.sum((scores / self.a - targets) ** 2, -1)

    def predict(self, scores):
        return scores / self.a

    def value(self, targets):
        return self.a / 2 * jnp.sum(targets**2, -1)


@pytest.mark.parametrize(("a", "side"), [(4.0, "upper"), (0.25, "lower")])
def test_e4_the_printed_bounds_by_constants_fail(a, side, x64):
    loss = losses.fenchel_young(Scaled(a=a))
    batch = cljax.Batch(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    params = jnp.array([[a]])  # prediction 1, target 0: |r| = 1, loss a/2
    printed = theory.risk_bounds(linear, loss, params, batch, kind="paper_fenchel_young")
    np.testing.assert_allclose(printed.loss, [a / 2])
    assert not printed.covered.any()
    assert (printed.upper < printed.loss).all() if side == "upper" else (printed.lower > printed.loss).all()
    mended = theory.risk_bounds(linear, loss, params, batch, kind="fenchel_young")
    np.testing.assert_allclose([mended.lower, mended.upper], [[a / 2]] * 2)


def test_without_strong_convexity_the_lower_bound_is_0_however_large_the_residual():
    batch = cljax.Batch(jnp.ones((2, 1)), jnp.array([[1.0], [2.0]]))
    found = theory.risk_bounds(linear, losses.fenchel_young(losses.poisson()), jnp.array([[50.0]]), batch)
    np.testing.assert_array_equal(found.lower, 0)
    assert found.covered.all()
    assert float(found.risk_lower) == 0


CASE = (jnp.ones((2, 1)), jnp.array([0, 1]))


@pytest.mark.parametrize(
    ("loss", "batch", "options", "error", "message"),
    [
        (SHANNON, CASE, {"kind": "softmx"}, ValueError, "kind: expected one of .*did you mean 'softmax'"),
        (SHANNON, CASE, {"kind": "squared"}, ValueError, r"kind: 'squared' expects losses.squared\(\)"),
        (SHANNON, (CASE[0], jnp.full((2, 2), 0.5)), {"kind": "softmax_one_hot"}, ValueError, "one-hot targets"),
        (SHANNON, (CASE[0], jnp.array([0, 2])), {}, ValueError, r"targets\[1\]: expected a label in 0..1"),
        (SHANNON, CASE, {"groups": [0]}, ValueError, "groups: expected one id an example"),
        (SHANNON, CASE, {"groups": [0.5, 1.5]}, TypeError, "groups: expected integer ids.*quantize"),
        (lambda s, y: s[:, 0], CASE, {}, TypeError, "loss: expected a Fenchel-Young loss"),
        (SHANNON, (*CASE, jnp.ones((2, 1))), {}, ValueError, "weight: expected shape"),
    ],
)
def test_wrong_input(loss, batch, options, error, message):
    with pytest.raises(error, match=message):
        theory.risk_bounds(linear, loss, jnp.ones((1, 2)), batch, **options)


@pytest.mark.parametrize(
    "targets", [jnp.array([0, 2, 1]), jnp.eye(3), jnp.full((3, 3), 1 / 3)], ids=["labels", "rows", "soft"]
)
def test_inside_of_jit(targets):
    params = {name: x.astype(jnp.float32) for name, x in random_net(0, outputs=3).items()}
    batch = cljax.Batch(jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)), jnp.float32), targets)
    eager = theory.risk_bounds(mlp, SHANNON, params, batch)
    traced = jax.jit(lambda p, b: theory.risk_bounds(mlp, SHANNON, p, b))(params, batch)
    assert traced.covered.all()
    assert traced.kind == ("softmax_one_hot" if targets.ndim == 1 else "softmax_log")
    np.testing.assert_allclose(traced.loss, eager.loss, rtol=1e-5)
    np.testing.assert_allclose(traced.gradient_energy, eager.gradient_energy, rtol=1e-5)
    split = jax.jit(lambda p, b: theory.gradient_energy_split(mlp, SHANNON, p, b, np.arange(3)).total)(params, batch)
    np.testing.assert_allclose(split, np.mean(eager.gradient_energy), rtol=1e-5)


def test_padding_of_soft_targets_does_not_count():
    y = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]], np.float32)
    batch = cljax.Batch(np.ones((3, 2), np.float32), y)
    params, groups = jnp.zeros((2, 3)), np.array([0, 0, 1, 2, 0])
    alone = theory.risk_bounds(linear, SHANNON, params, batch)
    padded = pad_batch(batch, 5)
    found = theory.risk_bounds(linear, SHANNON, params, padded)
    assert found.covered.all()
    rtol = tolerance(jnp.float32, 5)
    for name in ("risk", "risk_lower", "risk_upper"):
        np.testing.assert_allclose(getattr(found, name), getattr(alone, name), rtol=rtol)
    split = theory.gradient_energy_split(linear, SHANNON, params, batch, groups[:3])
    found = theory.gradient_energy_split(linear, SHANNON, params, padded, groups)
    np.testing.assert_allclose([found.total, found.noise_part], [split.total, split.noise_part], rtol=rtol)


SINGLE = (jnp.ones((1, 1)), jnp.array([0]))


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=lambda d: d.__name__)
def test_bounds_cover_whatever_the_precision_of_the_parameters(name, dtype):
    """Gradients come in the dtype of the parameters: there the bounds are as wide as that asks for."""
    loss = losses.fenchel_young(REGULARIZERS[name])
    for scale in (0, 0.1, 1, 3):
        rng = np.random.default_rng(0)
        y = np.asarray(targets_like(name, rng.standard_normal((20, 4))), np.float32)
        params = {key: x.astype(dtype) for key, x in random_net(1, scale=scale).items()}
        found = theory.risk_bounds(mlp, loss, params, (jnp.asarray(rng.standard_normal((20, 3)), jnp.float32), y))
        assert found.covered.all()
        assert np.isfinite(found.lower).all()


def test_gradients_rounded_to_half_precision_are_known_to_that():
    """With squares the two bounds are one number; the scores, and so the loss, are of single precision."""
    rng, squared = np.random.default_rng(0), losses.fenchel_young(losses.squared())
    batch = (rng.standard_normal((64, 3)).astype(np.float32), np.eye(3, dtype=np.float32)[rng.integers(0, 3, 64)])
    for dtype in (jnp.bfloat16, jnp.float16):
        params = {"w": jnp.asarray(rng.standard_normal((3, 3)), dtype), "b": jnp.zeros(3, dtype)}
        found = theory.risk_bounds(lambda p, x: x @ p["w"] + p["b"][None], squared, params, batch)
        assert found.covered.all()
        assert (found.upper <= (1 + 64 * float(eps(dtype))) * found.loss).all()


def test_half_precision_does_not_certify_an_infinite_loss():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((3, 2)) * 10, jnp.bfloat16), "b": jnp.zeros(2, jnp.bfloat16)}
    batch = (rng.standard_normal((64, 3)).astype(np.float32), rng.integers(0, 2, 64))
    found = theory.risk_bounds(lambda p, x: x @ p["w"] + p["b"][None], SHANNON, params, batch)
    assert found.covered.all()
    assert found.risk / 16 < found.risk_lower <= found.risk <= found.risk_upper < 2 * found.risk


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e3, 1e7, 1e15])
def test_squares_of_any_size_are_bounded_from_both_sides(size):
    squared = losses.fenchel_young(losses.squared())
    found = theory.risk_bounds(linear, squared, jnp.array([[size]]), (SINGLE[0], jnp.array([[0.5 * size]])))
    assert found.covered.all()
    np.testing.assert_allclose([found.lower, found.upper], [found.loss] * 2, rtol=128 * eps(jnp.float32))


@pytest.mark.parametrize("score", [5.0, 20.0, 50.0, 80.0, 90.0, 1000.0])
def test_confident_predictions_are_bounded_though_squares_of_the_residual_underflow(score):
    found = theory.risk_bounds(linear, SHANNON, jnp.array([[score, 0.0]]), SINGLE)
    assert found.covered.all()
    np.testing.assert_allclose([found.lower, found.upper], [found.loss] * 2, rtol=32 * score * eps(jnp.float32))


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_soft_targets_at_the_predictions_or_near_them_are_covered(name, scale):
    """Where the loss is the rounding of its parts, that of confident ones too: soft targets have a sum of about 1."""
    rng, loss = np.random.default_rng(0), losses.fenchel_young(REGULARIZERS[name])
    params = jnp.asarray(scale * rng.standard_normal((3, 2)), jnp.float32)
    x = rng.standard_normal((50, 3)).astype(np.float32)
    for near in (0, 1e-4):
        y = np.asarray(loss.regularizer.predict(x @ params)) * np.float32(1 + near * rng.uniform(-1, 0, (50, 2)))
        y = y / y.sum(-1, keepdims=True) if loss.regularizer.on_simplex else y
        found = theory.risk_bounds(linear, loss, params, (x, y))
        assert found.covered.all()
        assert found.risk_lower <= found.risk <= found.risk_upper
