"""The Krylov core against numpy, on matrices that are hard in one way each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral
from cljax.spectral.krylov import krylov_start, krylov_update
from tests.oracles import eps

pytestmark = pytest.mark.fast

DRIVERS = pytest.mark.parametrize("driver", ["host", "compiled"])


def product(v, matrix):
    return jnp.matmul(matrix, v, precision="highest")


def operator(matrix, dtype=jnp.float32):
    matrix = jnp.asarray(matrix, dtype)
    return curvature.FunctionOperator(product, matrix[0], matrix)


def random_symmetric(eigenvalues, seed=0):
    n = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return (q * np.asarray(eigenvalues)) @ q.T


MATRICES = {
    "path": 2 * np.eye(60) - np.eye(60, k=1) - np.eye(60, k=-1),
    "clustered": random_symmetric([1.0, 1.0001, 1.0002] * 15 + [5.0, 5.001]),
    "conditioned": random_symmetric(np.logspace(-5, 0, 50)),
    "low-rank": random_symmetric([3.0, -2.0, 1.0] + [0.0] * 40),
    "ties": random_symmetric([15.0, -14.99, 14.98] + [0.1] * 30),
}


@DRIVERS
@pytest.mark.parametrize("name", MATRICES)
def test_three_term_recurrence_and_orthogonality(name, driver):
    matrix = MATRICES[name].astype(np.float32)
    steps = 20
    result = spectral.lanczos(operator(matrix), jax.random.key(0), steps, driver=driver)
    Q, T = (
        np.asarray(result.basis).T,
        np.diag(result.alphas) + np.diag(result.betas[:-1], 1) + np.diag(result.betas[:-1], -1),
    )
    bound = 8 * eps(jnp.float32) * np.sqrt(len(matrix)) * steps
    assert np.abs(Q.T @ Q - np.eye(steps)).max() <= bound
    assert result.orthogonality <= bound
    left = matrix @ Q - Q @ T
    norm = np.abs(np.linalg.eigvalsh(matrix)).max()
    assert np.abs(left[:, :-1]).max() <= bound * norm
    np.testing.assert_allclose(np.linalg.norm(left[:, -1]), result.betas[-1], atol=bound * norm)


@DRIVERS
def test_full_space_gives_all_eigenvalues_without_ghosts(driver):
    matrix = np.diag(np.r_[np.full(3, 10.0), np.linspace(-1, 1, 97)])
    result = spectral.lanczos(operator(matrix), jax.random.key(0), 100, driver=driver)
    T = np.diag(result.alphas) + np.diag(result.betas[:-1], 1) + np.diag(result.betas[:-1], -1)
    found = np.linalg.eigvalsh(T)
    np.testing.assert_allclose(found, np.sort(np.diag(matrix)), atol=10 * 100 * eps(jnp.float32))
    assert result.orthogonality <= 8 * eps(jnp.float32) * 100


@DRIVERS
def test_start_in_an_invariant_subspace_goes_on_with_a_random_vector(driver):
    matrix = np.diag([4.0, 3.0, 2.0, 1.0])
    result = spectral.lanczos(operator(matrix), jnp.array([1.0, 0.0, 0.0, 0.0]), 4, driver=driver)
    assert result.betas[0] == 0
    assert result.num_breakdowns == 2  # the eigenvector, and the end of the space
    T = np.diag(result.alphas) + np.diag(result.betas[:-1], 1) + np.diag(result.betas[:-1], -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(T), [1, 2, 3, 4], atol=32 * eps(jnp.float32))


def test_drivers_agree():
    op = operator(MATRICES["conditioned"])
    host, compiled = (spectral.lanczos(op, jax.random.key(3), 12, driver=d) for d in ("host", "compiled"))
    for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(compiled)):
        np.testing.assert_allclose(a, b, atol=12 * 50 * eps(jnp.float32))


def test_same_key_same_answer():
    op = operator(MATRICES["path"])
    one, other = (spectral.lanczos(op, jax.random.key(5), 8) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_nan_stays_nan():
    result = spectral.lanczos(operator(np.full((5, 5), np.nan)), jax.random.key(0), 3)
    assert np.isnan(result.alphas).all()


@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_norms_whose_inverse_is_denormal_are_nan_or_right(driver):
    """XLA may divide by them as it multiplies by an inverse that counts as 0."""
    matrix = random_symmetric(np.linspace(-1, 1, 40))
    found, ordinary = (
        np.asarray(spectral.lanczos(operator(factor * matrix), jax.random.key(0), 6, driver=driver).alphas, float)
        / factor
        for factor in (2.0**127, 1.0)
    )
    known = np.isfinite(found)
    np.testing.assert_allclose(found[known], ordinary[known], atol=6 * 40 * eps(jnp.float32))


@pytest.mark.parametrize("steps", [0, -1, 61])
def test_bad_number_of_steps(steps):
    with pytest.raises(ValueError, match="num_steps: expected"):
        spectral.lanczos(operator(MATRICES["path"]), jax.random.key(0), steps)


def test_bad_driver_and_key():
    op = operator(MATRICES["path"])
    with pytest.raises(ValueError, match="driver: expected one of"):
        spectral.lanczos(op, jax.random.key(0), 3, driver="gpu")
    with pytest.raises(ValueError, match="driver: expected 'compiled' or 'auto' inside of jit"):
        jax.jit(lambda op: spectral.lanczos(op, jax.random.key(0), 3, driver="host").alphas)(op)
    with pytest.raises(ValueError, match=r"key_or_vector: expected shape \(60,\)"):
        spectral.lanczos(op, jnp.ones(59), 3)
    with pytest.raises(ValueError, match="key_or_vector: expected a start vector that is not zero"):
        spectral.lanczos(op, jnp.zeros(60), 3)
    with pytest.raises(TypeError, match="key: expected one typed PRNG key"):
        spectral.extreme_eigenpairs(op, jnp.zeros(2, jnp.uint32))


@pytest.mark.parametrize("left", [1.0, 1e-2, 1e-4])
def test_a_product_that_lies_in_the_basis_is_orthogonalized_twice(left):
    """Far from the band, as after a restart: one pass would leave about eps / left of what it takes out."""
    n, steps = 300, 9
    products = jax.random.normal(jax.random.key(1), (steps + 1, n))
    state = krylov_start(products[:1], jax.random.key(0), steps + 3, True)
    for row in products[1:]:
        state = krylov_update(state, row)
    inside = jnp.ones(steps) @ state.basis[:steps] / steps**0.5
    state = krylov_update(state, inside + left / n**0.5 * jax.random.normal(jax.random.key(2), (n,)))
    filled = state.basis[: steps + 2]
    assert state.num_breakdowns == 0
    np.testing.assert_allclose(filled @ filled.T, np.eye(steps + 2), atol=20 * eps(jnp.float32))
    # column j of the matrix still gives the product: A q = Q K
    column = state.matrix[:, steps] @ state.basis
    expected = inside + left / n**0.5 * jax.random.normal(jax.random.key(2), (n,))
    np.testing.assert_allclose(column, expected, atol=20 * eps(jnp.float32))


def test_a_traced_array_in_a_closure_is_named():
    def value(p):
        op = curvature.FunctionOperator(lambda v: p * v, jnp.zeros(3))
        return spectral.extreme_eigenpairs(op, jax.random.key(0)).values[0]

    with pytest.raises(ValueError, match="traced array in a closure; pass it in args"):
        jax.grad(value)(1.0)
