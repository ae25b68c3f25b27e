"""Energy functions and generalized gradient descent: duality, descent, and the experiment that is not its own (E8)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import losses, theory

EXPONENTS = st.floats(1.1, 4)
SEEDS = st.integers(0, 10**6)


@given(exponent=EXPONENTS, scale=st.floats(0.2, 5), offset=st.floats(-1, 1), seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_dual_is_the_conjugate(exponent, scale, offset, seed):
    """Proposition 3.1: |aμ|^r/r + c ↔ |ν/a|^q/q − c, and Ψ(0) + Ψ*(0) = 0."""
    with jax.enable_x64(True):
        energy = losses.power_energy(exponent, scale, offset)
        rng = np.random.default_rng(seed)
        mu, nu = (jnp.asarray(rng.standard_normal(3)) for _ in range(2))
        assert energy.value(mu) + energy.dual.value(nu) >= mu @ nu - 1e-12
        at = energy.gradient(mu)
        np.testing.assert_allclose(energy.value(mu) + energy.dual.value(at), mu @ at, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(energy.dual.gradient(at), mu, rtol=1e-8)
        np.testing.assert_allclose(at, jax.grad(energy.value)(mu), rtol=1e-10)
        assert energy.value(jnp.zeros(3)) + energy.dual.value(jnp.zeros(3)) == 0
        assert (energy.gradient(jnp.zeros(3)) == 0).all()


def sharp(r):
    """The least energy a|·|^r with S_F ≤ a|·|^r for F = |·|^r, r ≤ 2: a = 2^(2−r)."""
    return losses.power_energy(r, (r * 2 ** (2 - r)) ** (1 / r))


def naive(r):
    """|·|^r itself, which is no majorant for r < 2."""
    return losses.power_energy(r, r ** (1 / r))


def objective(r):
    return lambda x: jnp.sum(x * x) ** (r / 2)


def remainder(r, mu, nu):
    fn = objective(r)
    return fn(mu) - fn(nu) - jax.grad(fn)(nu) @ (mu - nu)


@given(r=st.floats(1.1, 2), seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_smoothness_bounds_the_risk_from_both_sides(r, seed):
    """Definition 3.2 and theorem 3.1: S ≤ Ψ(μ − ν) gives Ψ*(∇G) ≤ G − G_* ≤ Ψ(μ − μ_*)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        mu, nu = (jnp.asarray(rng.standard_normal(3)) for _ in range(2))
        assert remainder(r, mu, nu) <= sharp(r).value(mu - nu) + 1e-12
        assert remainder(r, -nu, nu) <= sharp(r).value(2 * nu) + 1e-12
        gradient = jax.grad(objective(r))(mu)
        assert sharp(r).dual.value(gradient) <= objective(r)(mu) + 1e-12 <= sharp(r).value(mu) + 2e-12


def descend(r, energy, alpha, num_steps):
    theta = jnp.asarray(np.random.default_rng(0).standard_normal(100))
    optimizer = theory.generalized_gradient_descent(energy, alpha)
    state, norms = optimizer.init(theta), [float(jnp.linalg.norm(theta))]
    for _ in range(num_steps):
        updates, state = optimizer.update(jax.grad(objective(r))(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
        norms.append(float(jnp.linalg.norm(theta)))
    return np.array(norms)


@pytest.mark.parametrize("r", [1.1, 1.5, 1.8, 2.0])
def test_a_step_lowers_the_risk_by_the_dual_energy(r, x64):
    """Theorem 4.1 (1)."""
    norms = descend(r, sharp(r), 1.0, 3)
    for before, after in itertools.pairwise(norms):
        gradient = jnp.zeros(100).at[0].set(r * before ** (r - 1))
        assert after**r <= before**r - sharp(r).dual.value(gradient) + 1e-12


def test_e8_one_is_the_best_step_for_the_majorant_only(x64):
    """With the sharp majorant the update is (1 − α 2^(−(2−r)/(r−1))) θ: the best α is above 1 for r < 2."""
    for r in (1.1, 1.5, 1.8, 2.0):
        factor = 2 ** (-(2 - r) / (r - 1))
        for alpha in (0.5, 1.0, 1.5):
            norms = descend(r, sharp(r), alpha, 1)
            np.testing.assert_allclose(norms[1] / norms[0], abs(1 - alpha * factor), rtol=1e-9, atol=1e-15)
    # r = 1.5: α = 2 lands on the minimum, where the source's figures show a stall
    norms = descend(1.5, sharp(1.5), 2.0, 1)
    assert norms[1] < 1e-14 * norms[0]
    # r = 1.1: α = 1 is nearly no progress
    norms = descend(1.1, sharp(1.1), 1.0, 1)
    np.testing.assert_allclose(norms[1] / norms[0], 1 - 2**-9.0, rtol=1e-9)


def test_e8_the_figures_agree_with_another_energy_which_is_no_majorant(x64):
    for r in (1.1, 1.5, 1.9):
        for alpha, ratio in ((1.0, 0.0), (2.0, 1.0), (0.3, 0.7), (3.0, 2.0)):
            norms = descend(r, naive(r), alpha, 1)
            np.testing.assert_allclose(norms[1] / norms[0], ratio, atol=1e-12)
        one = jnp.ones(1)
        assert remainder(r, -one, one) > naive(r).value(2 * one)


def test_it_is_an_optax_transformation():
    params = {"a": jnp.ones(2), "b": (jnp.zeros(3),)}
    gradient = jax.tree.map(lambda x: x + 1, params)
    optimizer = optax.chain(theory.generalized_gradient_descent(losses.power_energy(1.5), 0.5), optax.scale(2.0))
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    norm = np.sqrt(2 * 4 + 3)  # the dual of r = 3/2 is q = 3: −α |g| g
    np.testing.assert_allclose(updates["a"], -norm * np.full(2, 2.0), rtol=1e-6)
    plain = theory.generalized_gradient_descent(losses.power_energy(2.0))
    np.testing.assert_allclose(plain.update(gradient, plain.init(params))[0]["a"], -gradient["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.power_energy(1.0), "exponent: expected a finite number above 1, got 1.0"),
        (lambda: losses.power_energy(2.0, 0.0), "scale: expected a finite number above 0"),
        (lambda: theory.generalized_gradient_descent(losses.power_energy(2.0), 0.0), "learning_rate: expected"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
