"""Thousands of random spectra: whether what counts as converged is the extreme pair, to the tolerance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral
from tests.oracles import eps

pytestmark = [pytest.mark.slow, pytest.mark.long]

SIZE, TOL = 30, 1e-3


def spectra(num):
    """Families of diagonals, (num, SIZE) each; each is hard in one way."""
    rng = np.random.default_rng(0)

    def uniform(size, low=-1.0, high=1.0):
        return rng.uniform(low, high, (num, size))

    ones, places = np.ones((num, 1)), np.arange(SIZE)
    return {
        "uniform": uniform(SIZE),
        "normal": rng.standard_normal((num, SIZE)),
        "ties of both signs": np.hstack([15 * ones, -15 * ones, uniform(2) * 1e-3 + 15, uniform(SIZE - 4)]),
        "near ties": np.hstack([15 + 0.015 * uniform(2), -15 + 0.015 * uniform(1), uniform(SIZE - 3)]),
        "geometric": uniform(1, 0.3, 0.95) ** places,
        "outliers": np.hstack([uniform(4, 1, 10), np.abs(rng.standard_normal((num, SIZE - 4))) / 2]),
        "condition 1e6": 10 ** uniform(SIZE, -6, 0),
        "clustered": np.hstack([5 + 1e-4 * uniform(3), 1e-3 * uniform(SIZE - 3)]),
        "two near the top": np.hstack([uniform(1, 0.85, 1), ones, 0.3 * uniform(SIZE - 2)]),
        "path": np.tile(2 * (1 - np.cos(np.pi * (places + 1) / (SIZE + 1))), (num, 1)),
    }


def scale(v, diagonal):
    return diagonal * v


@partial(jax.jit, static_argnames=("num_top", "num_bottom"))
def solve(diagonals, keys, num_top, num_bottom):
    def one(diagonal, key):
        op = curvature.FunctionOperator(scale, diagonal, diagonal)
        options = {"num_top": num_top, "num_bottom": num_bottom, "tol": TOL, "max_products": SIZE}
        pairs = spectral.extreme_eigenpairs(op, key, **options)
        return pairs.values, pairs.status

    return jax.vmap(one)(diagonals, keys)


@pytest.mark.parametrize(("dtype", "num", "most"), [("float32", 500, 5), ("float64", 100, 2)])
def test_converged_pairs_are_the_extreme_ones(dtype, num, most, x64):
    missed, total = 0, 0
    for seed, (name, family) in enumerate(spectra(num).items()):
        diagonals = jnp.asarray(family, dtype)
        exact = np.sort(np.asarray(diagonals, float), axis=1)
        norm = np.abs(exact).max(axis=1, keepdims=True)
        for num_top, num_bottom in ((1, 0), (2, 1)):
            values, status = solve(diagonals, jax.random.split(jax.random.key(seed), num), num_top, num_bottom)
            wanted = np.hstack([exact[:, :num_bottom], exact[:, SIZE - num_top :]])
            # where the residual is at the level of rounding, what it hides is too: see Status.ROUNDING
            rounding = np.where(status == spectral.Status.ROUNDING, 512, 64) * eps(dtype) * norm
            error = np.abs(np.asarray(values, float) - wanted) - rounding
            converged = np.asarray(status) <= spectral.Status.ROUNDING
            wrong = (error > TOL * np.abs(wanted)) & converged
            assert np.mean(converged) > 0.9, name
            missed, total = missed + wrong.any(axis=1).sum(), total + num
    # one in ten thousand is what the documentation says; the bound is where three times as many would be surprising
    assert total == 20 * num
    assert missed <= most


@pytest.mark.parametrize("size", [5, 1000, 200_000])
def test_both_ends_at_any_size(size):
    rng = np.random.default_rng(size)
    diagonal = np.r_[rng.uniform(-1, 1, size - 4), 3.0, 2.5, -2.0, -3.5].astype(np.float32)
    op = curvature.FunctionOperator(scale, jnp.asarray(diagonal), jnp.asarray(diagonal))
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(1), num_top=2, num_bottom=2)
    assert pairs.converged.all()
    exact = np.sort(diagonal)[[0, 1, -2, -1]]
    np.testing.assert_allclose(pairs.values, exact, atol=3.5 * 64 * eps(jnp.float32))
