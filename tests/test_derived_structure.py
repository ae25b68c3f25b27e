"""What the theory derives about structure matrices and gradients, with Jacobians and formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax, xlogy

import cljax
from cljax import curvature, losses, theory
from tests.oracles import dense_jacobian
from tests.problems import SHANNON, mlp
from tests.test_losses import targets_like
from tests.test_risk_bounds import random_net

SEED = st.integers(0, 10**6)


@jax.jit
def jacobian_rows(params, x):
    rows = jax.jacrev(lambda p: mlp(p, x))(params)
    return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(rows)], axis=-1)


def blocks_of(params, x):
    jacobian = np.asarray(jacobian_rows(params, jnp.asarray(x)))
    return jacobian, jacobian @ jacobian.transpose(0, 2, 1)


@given(seed=SEED, scale=st.floats(0.1, 3))
@settings(deadline=None, max_examples=6)
def test_eigenvalues_on_the_complement_of_ones_are_inside(seed, scale):
    """(2b): λ_min(A) ≤ λ_min on the complement ≤ λ_max there ≤ λ_max(A); and (2a) with them, for softmax."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        params, x = random_net(seed, scale=scale), rng.standard_normal((5, 3))
        jacobian, blocks = blocks_of(params, x)
        batch = cljax.Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, 4, 5)))
        full, inside = (
            theory.structure_extremes(mlp, SHANNON, params, batch, subspace=name) for name in ("full", "auto")
        )
        slack = 1e-12 * np.trace(blocks, axis1=1, axis2=2)
        assert (full.per_example_min <= inside.per_example_min + slack).all()
        assert (inside.per_example_max <= full.per_example_max + slack).all()
        assert (full.per_example_min < inside.per_example_min - slack).any()
        r = softmax(np.asarray(mlp(params, batch.inputs)), axis=1) - np.eye(4)[np.asarray(batch.targets)]
        s = np.sum(np.einsum("nkp,nk->np", jacobian, r) ** 2, 1)
        np.testing.assert_allclose(s, np.einsum("nk,nkl,nl->n", r, blocks, r), rtol=1e-10)
        squared = np.sum(r**2, 1)
        assert (inside.per_example_min * squared <= s * (1 + 1e-10) + slack).all()
        assert (s <= inside.per_example_max * squared * (1 + 1e-10)).all()


def test_the_structure_of_a_linear_head_is_a_sum(x64):
    """(2c): A_x = (1 + |h|²) I + W J_h J_hᵀ Wᵀ."""

    def features(kernel, x):
        return jnp.tanh(x @ kernel)

    def model(params, x):
        return features(params["w"], x) @ params["out"] + params["bias"][None]

    for seed in range(2):
        rng = np.random.default_rng(seed)
        shapes = {"w": (3, 5), "out": (5, 4), "bias": (4,)}
        params = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
        x = jnp.asarray(rng.standard_normal((6, 3)))
        inner = dense_jacobian(features, params["w"], x).reshape(6, 5, -1)
        head = np.asarray(params["out"]).T
        size = 1 + np.sum(np.asarray(features(params["w"], x)) ** 2, 1)
        expected = size[:, None, None] * np.eye(4) + head @ inner @ inner.transpose(0, 2, 1) @ head.T
        np.testing.assert_allclose(curvature.structure_matrix(model, params, x), expected, rtol=1e-11, atol=1e-12)


def shifted(bias, x):
    """Scores that are given but for a bias: every A_x is the identity."""
    return x + bias[None]


def test_near_interpolation_the_loss_goes_like_the_root_of_the_energy(x64):
    """(2g): the slope of log loss against log s is 1/2 for one-hot cross-entropy, and 1 for squares."""
    margin, slopes = np.arange(8.0, 16), []
    wrong = np.zeros((8, 2))
    # one-hot up to exp(−margin): as scores of softmax, or as predictions
    rows = {losses.shannon(): margin, losses.squared(): 1 - np.exp(-margin)}
    for regularizer, first in rows.items():
        batch = cljax.Batch(jnp.asarray(np.column_stack([first, wrong])), jnp.zeros(8, int))
        found = theory.risk_bounds(shifted, losses.fenchel_young(regularizer), jnp.zeros(3), batch)
        slopes.append(np.polyfit(np.log(found.gradient_energy), np.log(found.loss), 1)[0])
    np.testing.assert_allclose(slopes, [0.5, 1], atol=1e-4)


# prediction, Ω, (m/2, c(f)) of each loss, written out
FORMS = {
    "squared": (lambda f: f, lambda y: np.sum(y**2, -1) / 2, lambda p: (0.5, np.full(len(p), 0.5))),
    "shannon": (lambda f: softmax(f, axis=1), lambda y: np.sum(xlogy(y, y), -1), lambda p: (1, 1 / p.min(1))),
    "bernoulli": (
        expit,
        lambda y: np.sum(xlogy(y, y) + xlogy(1 - y, 1 - y), -1),
        lambda p: (2, 1 / (p * (1 - p)).min(1)),
    ),
    "poisson": (np.exp, lambda y: np.sum(xlogy(y, y) - y, -1), lambda p: (0, 1 / p.min(1))),
}


@pytest.mark.parametrize("name", FORMS)
@given(seed=SEED, scale=st.floats(0.2, 1.5))
@settings(deadline=None, max_examples=4)
def test_the_excess_is_between_bounds_by_the_mean_part_of_the_energy(name, seed, scale):
    """(2i) and (2j): Ehat[c_lo |g|²/λ_max] ≤ R − H ≤ Ehat[c_hi |g|²/λ_min], GE = Ehat|g|² + Ehat tr(A Cov(Y|X))."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        groups, predict, value, constants = np.array([0, 0, 0, 1, 1, 2]), *FORMS[name]
        params, x = random_net(seed, outputs=3, scale=scale), rng.standard_normal((3, 3))
        y = targets_like(name, 2 * rng.standard_normal((6, 3)))
        jacobian, blocks = blocks_of(params, x)
        prediction = predict(np.asarray(mlp(params, jnp.asarray(x))))
        means = np.stack([y[groups == g].mean(0) for g in range(3)])
        pulled = np.sum(np.einsum("nkp,nk->np", jacobian, prediction - means) ** 2, 1)
        basis = np.linalg.eigh(np.eye(3) - 1 / 3)[1][:, 1:] if name == "shannon" else np.eye(3)
        eigenvalues = np.linalg.eigvalsh(basis.T @ blocks @ basis)
        low, high = constants(prediction)
        share = np.bincount(groups) / 6
        lower = np.sum(share * low * pulled / eigenvalues[:, -1])
        upper = np.sum(share * high * pulled / eigenvalues[:, 0])
        floor = np.mean(value(y)) - np.sum(share * value(means))
        loss = losses.fenchel_young(getattr(losses, name)())
        batch = cljax.Batch(jnp.asarray(x[groups]), jnp.asarray(y))
        risk = np.mean(loss(mlp(params, batch.inputs), batch.targets))
        assert lower * (1 - 1e-9) <= risk - floor + 1e-12
        assert risk - floor <= upper * (1 + 1e-9) + 1e-12
        kind = {"squared": "squared", "shannon": "softmax"}.get(name, "fenchel_young")
        found = theory.risk_bounds(mlp, loss, params, batch, kind=kind, groups=groups)
        # the library widens by rounding, which is relative to |r| and grows with the condition of A
        slack = 1e-6 + 2 * float(found.rounding.max())
        np.testing.assert_allclose(found.risk_lower, floor + lower, rtol=slack)
        np.testing.assert_allclose(found.risk_upper, floor + upper, rtol=slack)
        per_label = np.sum(np.einsum("nkp,nk->np", jacobian[groups], prediction[groups] - y) ** 2, 1)
        noise = np.mean(np.einsum("nk,nkl,nl->n", y - means[groups], blocks[groups], y - means[groups]))
        np.testing.assert_allclose(np.mean(per_label), np.sum(share * pulled) + noise, rtol=1e-10)
        split = theory.gradient_energy_split(mlp, loss, params, batch, groups)
        expected = [np.mean(per_label), np.sum(share * pulled), noise]
        np.testing.assert_allclose([split.total, split.mean_part, split.noise_part], expected, rtol=1e-9, atol=1e-12)
