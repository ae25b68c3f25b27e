"""Stochastic Lanczos quadrature against exact traces and the dense spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import spectral, tree
from tests.oracles import eps
from tests.test_lanczos import DRIVERS, operator, random_symmetric

EIGENVALUES = np.r_[np.linspace(-1, 1, 198), 4.0, 5.0]
MATRIX = random_symmetric(EIGENVALUES)


@DRIVERS
@pytest.mark.parametrize("power", [1, 2, 3])
def test_moments_are_traces_within_their_standard_errors(power, driver):
    found = spectral.spectral_density(operator(MATRIX), jax.random.key(0), num_probes=20, num_steps=10, driver=driver)
    mean, error = found.moments(power)
    assert abs(mean - np.mean(EIGENVALUES**power)) <= 4 * error
    assert found.num_products == 200
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=32 * eps(jnp.float32))
    assert np.all(found.weights >= 0)
    assert np.all(np.diff(found.nodes, axis=1) >= 0)


def test_one_probe_integrates_low_powers_exactly(x64):
    key = jax.random.key(0)
    found = spectral.spectral_density(operator(MATRIX, jnp.float64), key, num_probes=1, num_steps=4)
    probe = tree.random_like(jax.random.split(jax.random.split(key, 1)[0])[0], jnp.zeros(200), "rademacher")
    for power in range(8):
        exact = probe @ np.linalg.matrix_power(MATRIX, power) @ probe / 200
        np.testing.assert_allclose(found.moments(power)[0], exact, rtol=1e-11)
    assert np.isnan(found.moments(1)[1])


def test_density_is_that_of_the_dense_spectrum_within_standard_errors():
    sigma, grid = 0.3, np.linspace(-3, 7, 101)
    found = spectral.spectral_density(operator(MATRIX), jax.random.key(1), num_probes=16, num_steps=40)
    mean, error = found.density(grid, sigma)
    kernel = np.exp(-0.5 * ((grid[:, None] - EIGENVALUES) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    # where one eigenvalue is alone its weight is a chi-square variable, too skewed for a standard error of 16 probes
    bulk = np.abs(grid) < 1.5
    assert np.all(np.abs(mean - kernel.mean(1))[bulk] <= 5 * np.asarray(error)[bulk])
    np.testing.assert_allclose(np.trapezoid(mean, grid), 1, atol=1e-3)


def test_small_operators_stop_at_their_dimension():
    found = spectral.spectral_density(operator(np.diag([1.0, 2.0])), jax.random.key(0), num_probes=3, num_steps=50)
    assert found.nodes.shape == (3, 2)
    np.testing.assert_allclose(found.nodes, np.tile([1, 2], (3, 1)), rtol=8 * eps(jnp.float32))


def test_early_breakdown_keeps_the_weights():
    found = spectral.spectral_density(operator(2 * np.eye(30)), jax.random.key(0), num_probes=2, num_steps=10)
    np.testing.assert_allclose(found.moments(1)[0], 2, rtol=16 * eps(jnp.float32))
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=16 * eps(jnp.float32))


def test_nan_stays_nan():
    found = spectral.spectral_density(operator(np.full((5, 5), np.nan)), jax.random.key(0), num_probes=2)
    assert np.isnan(found.nodes).all()


def test_bad_input():
    op = operator(np.eye(3))
    with pytest.raises(ValueError, match="num_probes: expected"):
        spectral.spectral_density(op, jax.random.key(0), num_probes=0)
    with pytest.raises(ValueError, match="num_steps: expected"):
        spectral.spectral_density(op, jax.random.key(0), num_steps=0)
    with pytest.raises(ValueError, match="sigma: expected a positive width"):
        spectral.spectral_density(op, jax.random.key(0)).density([0.0], 0.0)
