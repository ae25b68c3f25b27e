"""What the theory derives about losses, residuals and entropies, on random instances in double precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cljax import curvature, losses, spectral, theory
from tests.oracles import dense_jacobian, flat
from tests.problems import SHANNON, mlp, problem
from tests.test_losses import REGULARIZERS, targets_like
from tests.test_risk_bounds import random_net
from tests.test_sgd_ledger import data, rows

SEED = st.integers(0, 10**6)
SOME = settings(deadline=None, max_examples=50)
SMOOTH = ["shannon", "squared", "bernoulli", "poisson", "power-1.5", "power-4"]


@pytest.mark.parametrize("name", SMOOTH)
@given(seed=SEED)
@settings(deadline=None, max_examples=10)
def test_the_loss_is_a_bregman_divergence(name, seed):
    """(1b): d(y, f) = Ω(y) − Ω(ŷ) − <f, y − ŷ> with ŷ = ∇Ω*(f); and its dual, B_{Ω*}(f ‖ ∇Ω(y))."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        regularizer = REGULARIZERS[name]
        f, y = jnp.asarray(rng.standard_normal(3)), jnp.asarray(targets_like(name, rng.standard_normal(3)))
        found = losses.fenchel_young(regularizer)(f, y)
        at = regularizer.predict(f)
        bregman = regularizer.value(y) - regularizer.value(at) - f @ (y - at)
        np.testing.assert_allclose(found, bregman, rtol=1e-10, atol=1e-13)
        # ∇Ω is the inverse of ∇Ω*; for softmax up to a constant, which changes nothing
        inverse = {
            "shannon": jnp.log,
            "squared": lambda t: t,
            "bernoulli": lambda t: jnp.log(t / (1 - t)),
            "poisson": jnp.log,
        }.get(name, lambda t: jnp.linalg.norm(t) ** (regularizer.exponent - 2) * t)
        g = inverse(y)
        dual = regularizer.conjugate(f) - regularizer.conjugate(g) - regularizer.predict(g) @ (f - g)
        np.testing.assert_allclose(found, dual, rtol=1e-9, atol=1e-12)


@given(seed=SEED)
@SOME
def test_softmax_does_not_see_constants(seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        f, y, c = jnp.asarray(rng.standard_normal(4)), jnp.asarray(rng.dirichlet(np.ones(4))), 3 * rng.standard_normal()
        np.testing.assert_allclose(SHANNON(f + c, y), SHANNON(f, y), rtol=1e-12)
        assert abs(jnp.sum(jax.grad(SHANNON)(f, y))) < 1e-15


@given(seed=SEED, num=st.integers(2, 6), sharpness=st.floats(0.1, 5))
@SOME
def test_the_chain_between_residual_and_divergence(seed, num, sharpness):
    """(2f): |r|² ≤ |r|₁²/2 ≤ KL ≤ log(1 + χ²) ≤ χ² ≤ |r|²/p_min."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        f, y = jnp.asarray(sharpness * rng.standard_normal(num)), rng.dirichlet(np.full(num, 0.3))
        p = np.asarray(jax.nn.softmax(f))
        r = p - y
        chi = np.sum(r**2 / p)
        steps = [
            np.sum(r**2),
            np.abs(r).sum() ** 2 / 2,
            float(SHANNON(f, y)),
            np.log1p(chi),
            chi,
            np.sum(r**2) / p.min(),
        ]
        for low, high in itertools.pairwise(steps):
            assert low <= high * (1 + 1e-9) + 1e-14


def test_the_ends_of_the_chain_are_sharp():
    """The lower one at K = 2 and p = y = 1/2; the upper one at K − 1 equal classes and a leak to the last."""
    shift = 1e-4
    p, y = np.array([0.5 + shift, 0.5 - shift]), np.array([0.5, 0.5])
    assert np.sum(y * np.log(y / p)) / np.sum((p - y) ** 2) == pytest.approx(1, rel=1e-6)
    for num in (3, 6):
        y = np.append(np.full(num - 1, 1 / (num - 1)), 0.0)
        leak = 1e-5
        p = np.append(np.full(num - 1, (1 - leak) / (num - 1)), leak)
        divergence = np.sum(y[:-1] * np.log(y[:-1] / p[:-1]))
        assert divergence * p.min() / np.sum((p - y) ** 2) == pytest.approx((num - 1) / num, rel=1e-3)


@given(seed=SEED, num=st.integers(2, 8))
@SOME
def test_the_residual_of_a_one_hot_target(seed, num):
    """(2g): t² K/(K−1) ≤ |r|² ≤ 2t², with t = 1 − p_c; and KL = log(1 + χ²)."""
    p = np.random.default_rng(seed).dirichlet(np.full(num, 0.5)).clip(1e-9)
    p /= p.sum()
    t, squared = 1 - p[0], np.sum((p - np.eye(num)[0]) ** 2)
    assert t**2 * num / (num - 1) <= squared * (1 + 1e-9)
    assert squared <= 2 * t**2 * (1 + 1e-9)
    np.testing.assert_allclose(-np.log(p[0]), np.log1p(np.sum((p - np.eye(num)[0]) ** 2 / p)), rtol=1e-7)


@pytest.mark.parametrize("name", ["shannon", "squared", "bernoulli"])
def test_entropy_is_the_least_mean_loss(name, x64):
    """Ent(Y) = E Ω(Y) − Ω(EY) = min_f E d(Y, f), by a search; and Bregman information is E d(E[Y|X], ∇Ω(EY))."""
    rng = np.random.default_rng(0)
    regularizer, loss = REGULARIZERS[name], losses.fenchel_young(REGULARIZERS[name])
    y, groups = targets_like(name, rng.standard_normal((12, 3))), rng.integers(0, 3, 12)

    def mean_loss(f):
        return float(jnp.mean(loss(jnp.broadcast_to(jnp.asarray(f), (12, 3)), y)))

    found = minimize(mean_loss, np.zeros(3), tol=1e-12)
    np.testing.assert_allclose(theory.conditional_entropy(regularizer, y, None), found.fun, rtol=1e-8)
    means = np.stack([y[groups == g].mean(0) for g in groups])
    information = jnp.mean(loss(jnp.broadcast_to(jnp.asarray(found.x), (12, 3)), means))
    np.testing.assert_allclose(theory.bregman_information(regularizer, y, groups), information, rtol=1e-6)


def test_a_priori_bound_of_the_change_off_the_batch(x64):
    """D_k ≤ α|∇R_out||∇R_B| + (α² L/2)|∇R_B|², with L the smoothness of R_out along the step."""
    full, params = data(), random_net(0, outputs=3)
    objective = losses.objective(mlp, SHANNON)
    step = 0.05
    for start in range(0, 16, 4):
        inside = np.arange(start, start + 4)
        batch, rest = rows(full, inside), rows(full, np.delete(np.arange(16), inside))
        gradient, outside = jax.grad(objective)(params, batch), jax.grad(objective)(params, rest)
        new = jax.tree.map(lambda p, g: p - step * g, params, gradient)
        change = float(objective(new, rest) - objective(params, rest))
        squared = np.sum(flat(gradient) ** 2)
        smoothness = 2 * (change + step * flat(outside) @ flat(gradient)) / (step**2 * squared)
        bound = step * np.linalg.norm(flat(outside)) * np.sqrt(squared) + max(smoothness, 0) * step**2 / 2 * squared
        assert change <= bound + 1e-14


def test_the_ledger_costs_two_batch_losses():
    full, params = data(num=64), random_net(0, hidden=32, outputs=3)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    full = rows(jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype.kind == "f" else x, full), np.arange(64))
    objective = losses.objective(mlp, SHANNON)
    ledger = theory.sgd_ledger(objective, 64)
    loss, gradient = jax.value_and_grad(objective)(params, full)

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]

    def update(state, params, new, batch, following, loss, gradient):
        return ledger.update(state, params, new, batch, following, loss=loss, gradient=gradient)

    used = flops(update, ledger.init(), params, params, full, full, loss, gradient)
    size = sum(x.size for x in jax.tree.leaves(params))
    # beside two losses: a difference and three inner products of the size of the parameters, and scalars
    assert used <= 2 * flops(objective, params, full) + 8 * size + 200


def test_structure_spectra_are_made_in_bounded_memory():
    from cljax.theory.structure import _eigenvalues

    case = problem("softmax-mlp", jnp.float32)
    params = jax.tree.map(lambda x: x, case.params)
    temporary = []
    for num in (64, 1024):
        inputs = jax.ShapeDtypeStruct((num, 4), jnp.float32)
        lowered = _eigenvalues.lower(
            jax.tree_util.Partial(mlp), params, inputs, centered=True, chunk_size=16, spectra=False
        )
        temporary.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    held = 16 * 3 * sum(x.size for x in jax.tree.leaves(params)) * 4
    # what grows is a few numbers an example, far from the 3 x 50 of its Jacobian
    assert temporary[1] - temporary[0] <= (1024 - 64) * 16 * 4
    assert temporary[1] <= 4 * held + 1024 * 64


def test_extremes_of_the_tangent_kernel_by_lanczos(x64):
    case = problem("softmax-mlp")
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs)
    expected = np.linalg.eigvalsh(jacobian @ jacobian.T)
    op = curvature.tangent_kernel(case.apply_fn, case.params, case.batch.inputs)
    found = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=2, num_bottom=1, tol=1e-10)
    assert found.converged.all()
    np.testing.assert_allclose(found.values, expected[[0, -2, -1]], rtol=1e-8)


def test_centered_structure_matrices(x64):
    case = problem("softmax-mlp")
    full = curvature.structure_matrix(case.apply_fn, case.params, case.batch.inputs)
    centered = curvature.structure_matrix(case.apply_fn, case.params, case.batch.inputs, centered=True)
    assert centered.shape == (7, 2, 2)
    projector = np.eye(3) - 1 / 3
    inside = np.linalg.eigvalsh(projector @ np.asarray(full) @ projector)[:, 1:]
    np.testing.assert_allclose(np.linalg.eigvalsh(centered), inside, rtol=1e-10)
    with pytest.raises(ValueError, match="centered: expected at least 2 scores"):
        curvature.structure_matrix(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.ones((3, 2)), centered=True)
