"""Numbers far from 1: squares of entries leave the dtype's range long before the entries do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral, tree

EPS = float(np.finfo(np.float32).eps)
SIZES = [1e-30, 1e-21, 1e20, 1e30]


def diagonal(entries: np.ndarray) -> curvature.FunctionOperator:
    d = jnp.asarray(entries, jnp.float32)
    return curvature.FunctionOperator(_times, d, d)


def _times(v: jax.Array, d: jax.Array) -> jax.Array:
    return d * v


@pytest.mark.parametrize("size", SIZES)
def test_norms_of_tiny_and_huge_vectors(size):
    x = np.linspace(1, 2, 7)
    vector = {"a": jnp.asarray(size * x[:3], jnp.float32), "b": jnp.asarray(size * x[3:], jnp.float32)}
    assert float(tree.norm(vector)) == pytest.approx(size * np.linalg.norm(x), rel=8 * EPS)


def test_norms_of_zero_nan_and_infinity():
    assert tree.norm(jnp.zeros(3)) == 0
    assert jnp.isnan(tree.norm(jnp.array([1.0, jnp.nan])))
    assert not jnp.isfinite(tree.norm(jnp.array([1.0, jnp.inf])))


@pytest.mark.parametrize("driver", ["compiled", "host"])
@pytest.mark.parametrize("size", SIZES)
def test_eigenvalues_of_tiny_and_huge_operators(size, driver):
    entries = size * np.arange(1.0, 41.0)
    pairs = spectral.extreme_eigenpairs(
        diagonal(entries), jax.random.key(1), num_top=2, num_bottom=1, tol=1e-4, driver=driver
    )
    assert pairs.converged.all()
    wanted = np.float64([entries[0], entries[-2], entries[-1]])
    error = np.abs(np.asarray(pairs.values, np.float64) - wanted)
    assert (error <= np.asarray(pairs.residual_norms, np.float64) + 32 * EPS * entries[-1]).all()


@pytest.mark.parametrize("size", SIZES)
def test_densities_of_tiny_and_huge_operators(size):
    # Rademacher probes have the exact mean of a diagonal matrix
    entries = size * np.arange(1.0, 41.0)
    density = spectral.spectral_density(diagonal(entries), jax.random.key(1), num_probes=2, num_steps=20)
    assert float(density.moments(1)[0]) == pytest.approx(entries.mean(), rel=256 * EPS)


def test_a_density_compiles_once():
    traced = []

    def product(v: jax.Array, d: jax.Array) -> jax.Array:
        traced.append(1)
        return d * v

    d = jnp.arange(1.0, 9.0)
    for value in (1.0, 2.0, 3.0):
        op = curvature.FunctionOperator(product, d, value * d)
        spectral.spectral_density(op, jax.random.key(2), num_probes=2, num_steps=3, driver="compiled")
        count = len(traced) if value == 1.0 else count
    assert len(traced) == count
