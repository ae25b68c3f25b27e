"""The kernel polynomial method against Chebyshev polynomials of the dense eigenvalues."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral
from cljax.spectral.chebyshev import chebyshev_run
from cljax.spectral.chebyshev_density import moments_are_of_a_density
from cljax.spectral.recurrence import each_probe
from tests.oracles import eps
from tests.test_density import EIGENVALUES, MATRIX, probe_of
from tests.test_lanczos import DRIVERS, operator, random_symmetric

KEY, BOUNDS = jax.random.key(0), (-1.5, 5.5)


@functools.cache
def found_with(driver="compiled"):
    return spectral.chebyshev_density(operator(MATRIX), KEY, num_probes=30, degree=60, bounds=BOUNDS, driver=driver)


def kernel(grid, eigenvalues, degree, bounds=BOUNDS):
    """Jackson's kernel around each eigenvalue, from its definition as a polynomial, (g, n)."""
    center, half = np.mean(bounds), np.ptp(bounds) / 2
    x, t = (grid - center) / half, (np.asarray(eigenvalues) - center) / half
    num, k = degree + 1, np.arange(degree + 1)
    q = np.pi / (num + 1)
    damping = ((num - k + 1) * np.cos(q * k) + np.sin(q * k) / np.tan(q)) / (num + 1) * np.where(k == 0, 1, 2)
    polynomials = [np.polynomial.chebyshev.chebval(t, np.eye(num)[j]) for j in k]
    values = np.polynomial.chebyshev.chebval(x, damping[:, None] * np.array(polynomials))
    return values.T / (np.pi * half * np.sqrt(1 - x**2))[:, None]


@DRIVERS
def test_moments_of_a_probe_are_those_of_the_dense_matrix(driver):
    found = found_with(driver)
    assert found.bounds_held
    assert found.num_products == 30 * 30
    values, vectors = np.linalg.eigh(MATRIX)
    mapped = (2 * values - sum(BOUNDS)) / np.ptp(BOUNDS)
    probe_key = jax.random.split(KEY)[1]
    for num in (0, 7):
        weights = (vectors.T @ probe_of(probe_key, num)) ** 2 / 200
        exact = np.cos(np.arange(61)[None] * np.arccos(mapped)[:, None]).T @ weights
        # the recurrence adds up rounding once a step
        np.testing.assert_allclose(found.chebyshev_moments[num], exact, atol=60 * 8 * eps(jnp.float32))
        one = dataclasses.replace(found, chebyshev_moments=found.chebyshev_moments[num : num + 1])
        for power in (1, 6):
            np.testing.assert_allclose(one.moments(power)[0], values**power @ weights, rtol=1e-3, atol=1e-4)


def test_density_is_the_damped_dense_one_within_standard_errors():
    found, grid = found_with(), np.linspace(-1.4, 5.4, 60)
    mean, error = found.density(grid)
    exact = kernel(grid, EIGENVALUES, 60).mean(1)
    bulk = np.abs(grid) < 0.8
    assert np.all(np.abs(mean - exact)[bulk] <= 4 * error[bulk])
    # each eigenvalue of its own weight: no error of chance is left, only rounding of 60 moments
    values, vectors = np.linalg.eigh(MATRIX)
    weights = (vectors.T @ probe_of(jax.random.split(KEY)[1], 3)) ** 2 / 200
    one = dataclasses.replace(found, chebyshev_moments=found.chebyshev_moments[3:4])
    np.testing.assert_allclose(one.density(grid)[0], kernel(grid, values, 60) @ weights, atol=2e-3)
    low, high = found.density_band(grid)
    assert np.all((low <= mean) & (mean <= high))
    assert np.all(found.density([-1.6, 5.6])[0] == 0)


def test_cumulative_is_the_integral_of_the_density():
    found = found_with()
    # points dense at the ends, where the density has an integrable pole
    grid = np.asarray(found.default_grid(4000), float)
    steps = np.diff(grid) * (np.asarray(found.density(grid)[0])[1:] + np.asarray(found.density(grid)[0])[:-1]) / 2
    cumulative = np.asarray(found.cumulative(grid)[0])
    np.testing.assert_allclose(cumulative[1:] - cumulative[0], np.cumsum(steps), atol=1e-3)
    np.testing.assert_allclose(found.cumulative([-9.0, -1.5, 5.5, 9.0])[0], [0, 0, 1, 1], atol=1e-5)
    assert np.all(np.diff(cumulative) >= -1e-5)
    mean, error = found.eigenvalue_count(2.0, np.inf)
    assert abs(mean - 2) <= 4 * error
    low, high = found.cumulative_band([0.0])
    assert low[0] < 0.5 < high[0]


def test_the_resolution_is_the_width_of_the_kernel():
    """One eigenvalue in the middle of the interval becomes a Gaussian of that width."""
    found = spectral.chebyshev_density(operator(np.diag(np.zeros(4))), KEY, num_probes=1, degree=200, bounds=(-2, 2))
    sigma, grid = float(found.resolution), np.linspace(-2, 2, 2001)[1:-1]
    density = np.asarray(found.density(grid)[0], float)
    assert sigma == pytest.approx(np.pi / 201 * 2)
    # the kernel's variance is σ² up to O(1/degree) of it: equation 78 of the review
    assert np.trapezoid(density * grid**2, grid) == pytest.approx(sigma**2, rel=0.03)
    gaussian = np.exp(-0.5 * (grid / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    assert np.abs(density - gaussian).max() <= 0.03 * gaussian.max()


SPECTRA = {
    "identity": np.full(30, 2.0),
    "zero": np.zeros(30),
    "outlier": np.r_[np.linspace(0, 1, 29), 40.0],
    "both-ends": np.r_[-7.0, np.linspace(0, 1, 28), 40.0],
    "decay": np.logspace(-6, 0, 30),
    "tiny": 1e-30 * np.linspace(-1, 2, 30),
    "huge": 1e30 * np.linspace(-1, 2, 30),
}


@DRIVERS
@pytest.mark.parametrize("name", SPECTRA)
def test_bounds_from_a_few_steps_hold(name, driver):
    eigenvalues = SPECTRA[name]
    found = spectral.chebyshev_density(
        operator(random_symmetric(eigenvalues)), KEY, num_probes=4, degree=41, num_bound_steps=12, driver=driver
    )
    assert found.bounds_held
    assert found.num_products == 12 + 4 * 21
    assert found.low < eigenvalues.min()
    assert found.high > eigenvalues.max()
    assert found.high - found.low <= 1.2 * np.ptp(eigenvalues) + 2e-3 * np.abs(eigenvalues).max() + 2 * (name == "zero")
    matrix, probe_key = random_symmetric(eigenvalues), jax.random.split(KEY)[1]
    forms = [z @ matrix @ z / 30 for z in (probe_of(probe_key, num, 30) for num in range(4))]
    width = max(np.abs(eigenvalues).max(), float(found.high - found.low))
    np.testing.assert_allclose(found.moments(1)[0], np.mean(forms), atol=41 * 8 * eps(jnp.float32) * width)


@pytest.mark.parametrize("outside", [0.01, 0.1, 1.0, 100.0])
def test_bounds_that_do_not_hold_give_no_density(outside):
    eigenvalues = np.r_[np.linspace(-1, 1, 29), 1 + outside]
    found = spectral.chebyshev_density(
        operator(random_symmetric(eigenvalues)), KEY, num_probes=4, degree=80, bounds=(-1.0, 1.0), driver="compiled"
    )
    assert not found.bounds_held
    everything = found.density([0.0]), found.cumulative([0.0]), found.moments(1), found.eigenvalue_count(0.0, 1.0)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(everything))


def test_what_shows_nowhere_changes_little():
    """Near the bounds: either the status tells, or the distribution is right to the error of the probes."""
    grid, told = np.linspace(-1, 1, 50), []
    for outside in (0.0, 1e-5, 1e-4, 1e-3, 3e-3):
        eigenvalues = np.r_[np.linspace(-1, 1, 199), 1 + outside]
        found = spectral.chebyshev_density(
            operator(random_symmetric(eigenvalues)), KEY, num_probes=4, degree=80, bounds=(-1.0, 1.0), driver="compiled"
        )
        told.append(not found.bounds_held)
        if found.bounds_held:
            mean, _ = found.cumulative(grid)
            exact = (eigenvalues[None] <= grid[:, None]).mean(1)
            assert np.abs(mean - exact).max() <= 0.05
    assert not told[0]
    assert told[-1]


@DRIVERS
def test_nan_stays_nan(driver):
    matrix = operator(np.full((30, 30), np.nan))
    found = spectral.chebyshev_density(matrix, KEY, num_probes=4, degree=41, num_bound_steps=12, driver=driver)
    assert not found.bounds_held
    everything = found.density([0.0]), found.density_band([0.0]), found.cumulative([0.0]), found.moments(1)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(everything))


def test_bad_input():
    op = operator(np.eye(30))
    with pytest.raises(ValueError, match="degree: expected"):
        spectral.chebyshev_density(op, KEY, degree=0)
    with pytest.raises(ValueError, match="bounds: expected a pair"):
        spectral.chebyshev_density(op, KEY, bounds=3.0)
    for bounds in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=r"bounds: expected \(low, high\) with low < high"):
            spectral.chebyshev_density(op, KEY, bounds=bounds)
    with pytest.raises(ValueError, match="power: expected at most the degree, 60, got 61"):
        found_with().moments(61)
    with pytest.raises(ValueError, match="low: expected an end below high"):
        found_with().eigenvalue_count(2.0, 0.0)


def times(v, d):
    return d * v


def test_three_vectors_of_memory():
    n = 100_000
    d = jnp.linspace(0, 1, n)

    def temp(degree):
        def moments(op, key):
            return spectral.chebyshev_density(op, key, num_probes=2, degree=degree).chebyshev_moments

        op = curvature.FunctionOperator(times, d, d)
        return jax.jit(moments).lower(op, KEY).compile().memory_analysis().temp_size_in_bytes / d.nbytes

    few, many = temp(16), temp(128)
    # two kept vectors, the product, a copy as the loop turns, and the random bits of the probe: 7 as measured
    assert many <= 8
    assert (many - few) * d.nbytes <= 16 * 128**2 * 4


@DRIVERS
def test_half_the_degree_are_products_and_parameters_do_not_retrace(driver):
    traces, products = [], []

    def product(v, d):
        traces.append(1)
        jax.debug.callback(lambda _: products.append(1), v[0])
        return d * v

    d, counts = jnp.arange(1.0, 9.0), []
    for factor in (1.0, 2.0, 3.0):
        op = curvature.FunctionOperator(product, d, factor * d)
        found = spectral.chebyshev_density(op, KEY, num_probes=3, degree=9, num_bound_steps=4, driver=driver)
        found.chebyshev_moments.block_until_ready()
        jax.effects_barrier()
        counts.append(len(traces))
    assert counts[0] == counts[2]
    assert len(products) == 3 * found.num_products == 3 * (4 + 3 * 5)


HALF = {
    "even": np.linspace(-1, 3, 50),
    "far from 0": np.linspace(9, 10, 50),
    "outlier": np.r_[np.linspace(0, 1, 49), 40.0],
    "two": np.array([9.0, 10.0]),
}


@pytest.mark.parametrize("name", HALF)
def test_bounds_leave_room_for_the_rounding_of_half_precision(name):
    entries = jnp.asarray(HALF[name], jnp.bfloat16)
    op = curvature.FunctionOperator(times, entries, entries)
    found = spectral.chebyshev_density(op, KEY, degree=10, driver="compiled")
    room = 0.9 * eps(jnp.bfloat16) ** 0.5 * np.abs(HALF[name]).max()
    assert found.low <= HALF[name].min() - room
    assert found.high >= HALF[name].max() + room


@pytest.mark.parametrize("degree", [100, 300])
@pytest.mark.parametrize("name", HALF)
def test_rounding_of_half_precision_is_no_eigenvalue_outside(name, degree):
    eigenvalues = jnp.asarray(HALF[name], jnp.bfloat16)
    width = 0.1 * float(np.abs(HALF[name]).max())
    low, high = HALF[name].min() - width, HALF[name].max() + width

    def moments(entries, dtype):
        op = curvature.FunctionOperator(times, entries.astype(dtype), entries.astype(dtype))
        return each_probe("compiled", op, KEY, 8, chebyshev_run, degree // 2, jnp.float32(low), jnp.float32(high))

    rounded = moments(eigenvalues, jnp.bfloat16)
    assert moments_are_of_a_density(rounded, low, high, eps(jnp.bfloat16))
    assert moments_are_of_a_density(moments(eigenvalues, jnp.float32), low, high)
    # what is outside still shows
    outlier = eigenvalues.at[0].set(jnp.bfloat16(high + 0.3 * (high - low)))
    assert not moments_are_of_a_density(moments(outlier, jnp.bfloat16), low, high, eps(jnp.bfloat16))


@DRIVERS
@pytest.mark.parametrize("name", HALF)
def test_moments_of_an_operator_in_half_precision(name, driver):
    entries = jnp.asarray(HALF[name], jnp.bfloat16)
    mixed = {"half": entries, "single": jnp.asarray(HALF[name], jnp.float32)}
    for of_one in (entries, mixed):
        op = curvature.FunctionOperator(lambda v, d: jax.tree.map(jnp.multiply, v, d), of_one, of_one)
        found = spectral.chebyshev_density(op, KEY, driver=driver)
        assert found.bounds_held
        size = np.abs(HALF[name]).max()
        np.testing.assert_allclose(found.moments(1)[0], HALF[name].mean(), atol=eps(jnp.bfloat16) * size)
