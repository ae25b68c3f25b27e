"""Log-determinants and eigenvalue counts against the dense spectrum, and whether their errors are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.stats import norm
from scipy.stats import t as student

from cljax import spectral
from cljax.spectral.three_term import tridiagonal_pairs
from tests.oracles import eps
from tests.test_density import probe_of
from tests.test_lanczos import DRIVERS, operator, random_symmetric

EIGENVALUES = np.r_[np.geomspace(0.1, 2, 36), 10.0, 11.0, 12.0, 13.0]
MATRIX = random_symmetric(EIGENVALUES)
SIZES = {"num_probes": 16, "num_steps": 40}
# an error estimated from 16 probes: Student's law with 15 degrees of freedom, at the level of four standard deviations
FOUR_SIGMA = float(student.isf(norm.sf(4), SIZES["num_probes"] - 1))


def log_determinant(matrix, seed=0, **kwargs):
    return spectral.log_determinant(operator(matrix), jax.random.key(seed), **{**SIZES, **kwargs})


def count(matrix, low, high, seed=0, **kwargs):
    return spectral.eigenvalue_count(operator(matrix), jax.random.key(seed), low, high, **{**SIZES, **kwargs})


@DRIVERS
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_within_standard_errors(shift, driver):
    for seed in range(3):
        found = log_determinant(MATRIX, seed, shift=shift, driver=driver, reorthogonalize=False)
        assert abs(found.mean - np.log(EIGENVALUES + shift).sum()) <= FOUR_SIGMA * found.standard_error
        assert (found.num_products, found.num_probes) == (16 * 40, 16)
        assert not found.converged
        found = count(MATRIX, 1.0, 12.5, seed, driver=driver, reorthogonalize=False)
        assert abs(found.mean - np.sum((EIGENVALUES > 1) & (EIGENVALUES <= 12.5))) <= FOUR_SIGMA * found.standard_error


@pytest.mark.parametrize("quantity", ["log_determinant", "count"])
def test_errors_are_calibrated(quantity):
    """Over seeds the deviation in standard errors follows Student's distribution of 15 degrees of freedom."""
    scores = []
    for seed in range(60):
        if quantity == "count":
            found, exact = count(MATRIX, 5.0, np.inf, seed, driver="compiled", reorthogonalize=False), 4
        else:
            found = log_determinant(MATRIX, seed, driver="compiled", reorthogonalize=False)
            exact = np.log(EIGENVALUES).sum()
        scores.append(float((found.mean - exact) / found.standard_error))
    # its variance is 15/13; the mean square of 60 scatters by about 25 %, their mean by 0.14: four times that
    assert abs(np.mean(scores)) <= 4 * 0.14
    assert 15 / 13 * 0.4 <= np.mean(np.square(scores)) <= 15 / 13 * 2


def test_reorthogonalized_or_not_is_the_same():
    matrix = random_symmetric(np.geomspace(0.1, 2, 40))
    one, other = (log_determinant(matrix, driver="compiled", reorthogonalize=mode) for mode in (True, False))
    # a logarithm amplifies the error of a node by at most the condition number
    np.testing.assert_allclose(one.mean, other.mean, atol=40 * 40 * 20 * eps(jnp.float32))


@DRIVERS
def test_stops_at_the_tolerance(driver):
    matrix = random_symmetric(np.geomspace(1, 2, 40))
    options = {"num_probes": 400, "num_steps": 12, "driver": driver}
    found = log_determinant(matrix, tol=0.01, **options)
    assert found.converged
    assert 10 <= found.num_probes < 400
    assert found.num_products == 12 * found.num_probes
    assert found.standard_error <= 0.01 * abs(found.mean)
    exact = np.log(np.geomspace(1, 2, 40)).sum()
    assert abs(found.mean - exact) <= FOUR_SIGMA * found.standard_error
    part = log_determinant(matrix, tol=1e-5, **{**options, "num_probes": 12})
    assert not part.converged
    assert part.num_probes == 12
    exact_count = count(matrix, 0.0, 5.0, tol=0.01, min_probes=3, **options)  # all: no error but rounding
    assert exact_count.converged
    assert exact_count.num_probes == 3
    np.testing.assert_allclose(exact_count.mean, 40, rtol=1e-5)
    broken = log_determinant(np.full((40, 40), np.nan), tol=0.1, **options)
    assert np.isnan(broken.mean)
    assert not broken.converged
    assert broken.num_probes == 10


def test_each_probe_is_too_great_and_falls_to_the_exact_form(x64):
    values, vectors = np.linalg.eigh(MATRIX)
    exact = np.log(values) @ (vectors.T @ probe_of(jax.random.key(0), 0, 40)) ** 2
    op, key = operator(MATRIX, jnp.float64), jax.random.key(0)
    excess = [
        float(
            spectral.log_determinant(
                op, key, num_probes=1, num_steps=steps, reorthogonalize=False, driver="compiled"
            ).mean
        )
        - exact
        for steps in (3, 8, 40)
    ]
    assert excess[0] > excess[1] > 0
    assert abs(excess[2]) <= 1e-9


@pytest.mark.parametrize("least", [-1e-3, 0.0, 1e-8])
def test_no_logarithm_without_a_positive_spectrum(least):
    matrix = random_symmetric(np.r_[least, np.linspace(0.5, 1, 39)])
    assert np.isnan(log_determinant(matrix, driver="compiled", reorthogonalize=False).mean)
    shifted = log_determinant(matrix, shift=1.0, driver="compiled", reorthogonalize=False)
    assert np.isfinite(shifted.mean)
    assert np.isfinite(shifted.standard_error)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_multiples_of_the_identity_are_exact(size):
    found = log_determinant(size * np.eye(40), driver="compiled", reorthogonalize=False)
    np.testing.assert_allclose(found.mean, 40 * np.log(size), atol=40 * 64 * eps(jnp.float32))
    np.testing.assert_allclose(
        count(size * np.eye(40), 0, 2 * size, driver="compiled", reorthogonalize=False).mean, 40, rtol=1e-5
    )


def test_nan_stays_nan():
    matrix = np.full((40, 40), np.nan)
    for found in (
        log_determinant(matrix, driver="compiled", reorthogonalize=False),
        count(matrix, 0.0, 1.0, driver="compiled", reorthogonalize=False),
    ):
        assert np.isnan(found.mean)


def test_one_probe_has_no_error():
    found = log_determinant(MATRIX, num_probes=1, driver="compiled", reorthogonalize=False)
    assert np.isnan(found.standard_error)


def test_bad_input():
    with pytest.raises(ValueError, match=r"low: expected an end below high, got \(1.0, 1.0\]"):
        count(MATRIX, 1.0, 1.0)
    with pytest.raises(ValueError, match="tol: expected"):
        count(MATRIX, 0.0, 1.0, tol=2.0)
    with pytest.raises(ValueError, match="min_probes: expected an integer of at least 2"):
        log_determinant(MATRIX, tol=0.1, min_probes=1)
    with pytest.raises(ValueError, match="num_probes: expected"):
        log_determinant(MATRIX, num_probes=0)


def test_gradient_without_reorthogonalization_is_that_of_differences(x64):
    def value(shift):
        op = operator(np.diag(np.linspace(1.0, 3.0, 8)) + shift, jnp.float64)
        settings = {"num_probes": 2, "num_steps": 5, "reorthogonalize": False}
        return spectral.log_determinant(op, jax.random.key(0), **settings).mean

    step = eps(jnp.float64) ** (1 / 3)
    expected = (value(0.1 + step) - value(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(0.1), expected, rtol=64 * step**2)


FEW = {
    "low rank": np.r_[np.zeros(25), 1.0, 2.0, 3.0, 4.0, 5.0],
    "identity": np.full(30, 1.7),
    "three values": np.repeat([1.0, 2.5, 4.0], 10),
    "symmetric": np.repeat([-1.0, 0.0, 1.0], 10),
    "zero": np.zeros(30),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", FEW)
def test_gradient_where_the_krylov_space_is_exhausted(name, turned, x64):
    """Along a change that keeps the few eigenvalues and along one that parts them."""
    start = random_symmetric(FEW[name]) if turned else np.diag(FEW[name])
    settings = {"num_probes": 3, "num_steps": 12, "reorthogonalize": False, "driver": "compiled"}
    key, step = jax.random.key(0), eps(jnp.float64) ** (1 / 3)
    for change in (start, random_symmetric(np.linspace(-1, 1, 30), seed=1)):

        def values(s, change=change):
            op = operator(jnp.asarray(start) + s * jnp.asarray(change), jnp.float64)
            moment = spectral.spectral_density(op, key, **settings).moments(2)[0]
            return jnp.stack([spectral.log_determinant(op, key, shift=3.0, **settings).mean, moment])

        expected = (values(step) - values(-step)) / (2 * step)
        # differences: of rounding eps over the step, and the third derivative times its square
        tolerance = {"rtol": 1e-7, "atol": 1e3 * step**2}
        np.testing.assert_allclose(jax.jacfwd(values)(0.0), expected, **tolerance)
        np.testing.assert_allclose(jax.jacrev(values)(0.0), expected, **tolerance)


def test_pairs_of_equal_values_have_the_derivative_of_the_quadrature(x64):
    """Two blocks with an eigenvalue in common: Σ f(θᵢ) wᵢ = e₁ᵀ f(T) e₁ depends on the first alone."""
    alphas, betas = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])

    def value(s):
        values, vectors = tridiagonal_pairs(alphas + s * jnp.arange(1.0, 6.0), betas + s * jnp.array([1.0, 2, 0, 0, 0]))
        return jnp.sum(vectors[0] ** 2 * jnp.exp(values))

    def exact(s):
        betas = [1 + s, 1 + 2 * s]
        return scipy.linalg.expm(np.diag([s, 2 * s, 3 * s]) + np.diag(betas, 1) + np.diag(betas, -1))[0, 0]

    step = eps(jnp.float64) ** (1 / 3)
    np.testing.assert_allclose(jax.grad(value)(0.0), (exact(step) - exact(-step)) / (2 * step), rtol=64 * step**2)


def test_fewer_probes_than_the_least_never_converge():
    """A standard error of three samples may be small by chance."""
    found = log_determinant(MATRIX, num_probes=3, min_probes=10, tol=0.5)
    assert found.num_probes == 3
    assert found.standard_error <= 0.5 * abs(found.mean)
    assert not found.converged
    assert log_determinant(MATRIX, num_probes=3, min_probes=3, tol=0.5).converged


def test_a_tolerance_under_vmap():
    op, shifts = operator(MATRIX), jnp.array([1.0, 3.0])

    def value(shift):
        return spectral.log_determinant(op, jax.random.key(0), shift=shift, tol=0.05, num_probes=20).mean

    each = [value(shift) for shift in shifts]
    # samples differ by rounding alone, and the number of probes with them at most by chance
    np.testing.assert_allclose(jax.vmap(value)(shifts), each, rtol=0.05)
    with pytest.raises(ValueError, match="driver: expected 'compiled' or 'auto' inside of jit"):
        jax.vmap(lambda s: log_determinant(MATRIX, shift=s, tol=0.1, driver="host").mean)(shifts)


def test_inside_of_jit():
    def both(op, key, shift):
        settings = {**SIZES, "reorthogonalize": False, "driver": "compiled"}
        return (
            spectral.log_determinant(op, key, shift=shift, **settings).mean,
            spectral.eigenvalue_count(op, key, 0.0, shift, **settings).mean,
        )

    op, key = operator(MATRIX), jax.random.key(0)
    for a, b in zip(jax.jit(both)(op, key, 1.0), both(op, key, 1.0)):
        np.testing.assert_allclose(a, b, rtol=1e-4)
