"""Numeric conjugates against closed forms, with their stated accuracy; Moreau envelopes; energy functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from cljax import losses
from tests.oracles import eps


def entropy(y):
    return jnp.sum(y * jnp.log(y))


def half_square(y):
    return jnp.sum(y * y) / 2


def quartic(y):
    return jnp.sum(y * y) ** 2 / 4


def binary_entropy(y):
    return jnp.sum(y * jnp.log(y) + (1 - y) * jnp.log1p(-y))


def counts(y):
    return jnp.sum(y * jnp.log(y) - y)


def entropy_15(y):
    return jnp.sum(y**1.5 - y) / 0.75


CASES = {
    "simplex-entropy": (entropy, "simplex", losses.shannon()),
    "simplex-square": (lambda y: half_square(y) - 0.5, "simplex", losses.sparsemax()),
    "simplex-tsallis": (entropy_15, "simplex", losses.tsallis(1.5)),
    "box-entropy": (binary_entropy, "box", losses.bernoulli()),
    "positive-counts": (counts, "positive", losses.poisson()),
    "reals-square": (half_square, "reals", losses.squared()),
    "reals-quartic": (quartic, "reals", losses.power(4.0)),
}
EACH = pytest.mark.parametrize("name", CASES)


@EACH
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_value_is_within_its_gap_of_the_closed_form(name, scale, x64):
    fn, domain, regularizer = CASES[name]
    f = jnp.asarray(scale * np.random.default_rng(0).standard_normal((5, 4)))
    found = losses.conjugate(fn, f, domain=domain)
    expected = np.asarray(regularizer.conjugate(f))
    rounding = 64 * eps(jnp.float64) * (1 + np.abs(f).max() + np.abs(expected))
    assert found.converged.all()
    assert (found.value <= expected + rounding).all()
    assert (expected - found.value <= found.gap + rounding).all()
    # a gap g allows an error of √(2g/m) in the maximizer of an m-strongly convex function
    np.testing.assert_allclose(found.argmax, regularizer.predict(f), rtol=1e-4, atol=1e-5)


@EACH
def test_derivatives(name, x64):
    fn, domain, regularizer = CASES[name]
    f = jnp.array([0.3, -0.5, 0.8])
    gradient = jax.grad(lambda x: losses.conjugate(fn, x, domain=domain).value)(f)
    np.testing.assert_allclose(gradient, losses.conjugate(fn, f, domain=domain).argmax)
    hessian = jax.jacfwd(lambda x: losses.conjugate(fn, x, domain=domain).argmax)(f)
    expected = np.stack([regularizer.hessian_product(f, e) for e in np.eye(3)])
    np.testing.assert_allclose(hessian, expected, atol=1e-9)


def test_jit_vmap_and_single_precision():
    f = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 4)), jnp.float32)
    found = losses.conjugate(entropy, f, domain="simplex")
    assert found.value.shape == (3, 2)
    assert found.argmax.shape == (3, 2, 4)
    assert found.value.dtype == jnp.float32
    slack = found.gap + 16 * eps(jnp.float32)
    assert (abs(found.value - jax.nn.logsumexp(f, axis=-1)) <= slack).all()
    again = jax.jit(jax.vmap(lambda row: losses.conjugate(entropy, row, domain="simplex").value))(f)
    np.testing.assert_allclose(again, found.value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(dtype):
    f = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)), dtype)
    wide, y = f.astype(jnp.float32), jax.nn.softmax(f)
    for fn, domain in ((half_square, "reals"), (entropy, "simplex")):
        found, expected = losses.conjugate(fn, f, domain=domain), losses.conjugate(fn, wide, domain=domain)
        assert found.converged.all()
        assert found.value.dtype == found.argmax.dtype == found.gap.dtype == jnp.float32
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        gap = losses.legendre_gap(fn, y, f, domain=domain)
        expected = losses.legendre_gap(fn, y.astype(jnp.float32), wide, domain=domain)
        jax.tree.map(np.testing.assert_array_equal, gap, expected)
    slope = jax.grad(lambda f: losses.conjugate(entropy, f, domain="simplex").value.sum())(f)
    assert slope.dtype == dtype
    np.testing.assert_allclose(slope.astype(float), found.argmax, rtol=eps(dtype))
    again = losses.biconjugate(half_square, f)
    assert again.value.dtype == jnp.float32
    np.testing.assert_allclose(again.value, np.sum(np.square(wide), -1) / 2, rtol=1e-5)
    envelopes = [losses.moreau_envelope(entropy, x, 3.0, domain="simplex") for x in (f, wide)]
    jax.tree.map(np.testing.assert_array_equal, *envelopes)


@pytest.mark.parametrize(
    "fn",
    [lambda y: -jnp.sum(y * y), lambda y: jnp.sum(y), lambda y: jnp.sum(y * jnp.nan)],
    ids=["concave", "lin", "nan"],
)
def test_no_conjugate_is_no_number(fn, x64):
    found = losses.conjugate(fn, jnp.array([1.0, 2.0]))
    assert not found.converged
    assert not found.gap <= 1


def test_an_infinite_hessian_is_no_convergence(x64):
    found = losses.conjugate(
        lambda f: 0.75 * jnp.sum(f * f) ** (2 / 3), jnp.array([0.5, -2.0]), start=jnp.full(2, 1e-30)
    )
    assert not found.converged or abs(found.value - 4.25**2 / 4) < 1e-9


def test_biconjugate_is_the_function(x64):
    y = jnp.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    found = losses.biconjugate(entropy, y, domain="simplex")
    assert found.converged.all()
    np.testing.assert_allclose(found.value, np.sum(y * np.log(y), -1), atol=1e-10)
    quartics = losses.biconjugate(quartic, jnp.array([[0.5, -2.0]]))
    np.testing.assert_allclose(quartics.value, [(0.25 + 4) ** 2 / 4], rtol=1e-10)
    np.testing.assert_allclose(quartics.argmax, [[4.25 * 0.5, 4.25 * -2]], rtol=1e-6)


def test_legendre_gap_is_the_fenchel_young_loss(x64):
    rng = np.random.default_rng(0)
    y, f = jnp.asarray(rng.dirichlet(np.ones(4), 6)), jnp.asarray(rng.standard_normal((6, 4)))
    found = losses.legendre_gap(entropy, y, f, domain="simplex")
    np.testing.assert_allclose(found.value, losses.fenchel_young(losses.shannon())(f, y), atol=1e-11)
    with pytest.raises(ValueError, match=r"targets: expected the shape of scores, \(6, 4\), got \(6, 3\)"):
        losses.legendre_gap(entropy, y[:, :3], f, domain="simplex")


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((half_square, jnp.zeros(2)), {"domain": "ball"}, ValueError, "domain: expected one of .*got 'ball'"),
        ((half_square, jnp.zeros(2, int)), {}, TypeError, "scores: expected a floating dtype"),
        ((half_square, jnp.zeros(())), {}, ValueError, "scores: expected shape"),
        ((half_square, jnp.zeros(2)), {"tol": 0}, ValueError, "tol: expected a number above 0"),
        ((half_square, jnp.zeros(2)), {"start": jnp.zeros(3)}, ValueError, r"start: expected shape \(2,\) or"),
        (([], jnp.zeros(2)), {}, TypeError, "fn: expected a hashable function, got list"),
    ],
)
def test_wrong_input(args, options, error, message):
    with pytest.raises(error, match=message):
        losses.conjugate(*args, **options)


@pytest.mark.parametrize("step", [0.3, 2.0])
def test_moreau_envelope_against_a_search(step, x64):
    x = np.array([0.7, -1.2, 2.0])

    def objective(y):
        return float(quartic(jnp.asarray(y)) + np.sum((x - y) ** 2) / (2 * step))

    expected = minimize(objective, x, tol=1e-12)
    found = losses.moreau_envelope(quartic, jnp.asarray(x), step)
    assert found.converged
    np.testing.assert_allclose(found.value, expected.fun, rtol=1e-9)
    np.testing.assert_allclose(found.prox, expected.x, atol=1e-4)
    gradient = jax.grad(lambda p: losses.moreau_envelope(quartic, p, step).value)(jnp.asarray(x))
    np.testing.assert_allclose(gradient, (x - found.prox) / step, rtol=1e-10)
    np.testing.assert_array_equal(losses.prox(quartic, jnp.asarray(x), step), found.prox)


def test_prox_of_an_indicator_is_a_projection_and_a_failure_is_nan(x64):
    x = jnp.array([[0.9, 0.4, -1.0]])
    found = losses.prox(lambda y: 0 * jnp.sum(y), x, domain="simplex")
    np.testing.assert_allclose(found, losses.sparsemax().predict(x), atol=1e-6)
    assert np.isnan(losses.prox(lambda y: -jnp.sum(y * y), jnp.ones(2))).all()
    with pytest.raises(ValueError, match="step: expected a number above 0, got 0"):
        losses.moreau_envelope(half_square, jnp.ones(2), 0)
