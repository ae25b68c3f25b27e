"""Densities whose first run finds the outliers: exact weights for them, and one probe more of what is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cljax import curvature, parallel, spectral
from tests.oracles import eps
from tests.test_density import EIGENVALUES, MATRIX, MODES
from tests.test_lanczos import DRIVERS, operator, product, random_symmetric

KEY = jax.random.key(0)
N = len(EIGENVALUES)


def density(matrix, seed=0, **options):
    options = {"num_probes": 1, "num_steps": 15, "search_steps": 30, **options}
    return spectral.spectral_density(operator(matrix), jax.random.key(seed), **options)


@DRIVERS
@MODES
def test_outliers_have_their_exact_weight_in_every_rule(reorthogonalize, driver):
    found = density(MATRIX, num_probes=2, reorthogonalize=reorthogonalize, driver=driver)
    assert found.nodes.shape[0] == found.weights.shape[0] == 3
    assert found.num_products == 2 * 15 + 30
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    assert np.all(np.diff(found.nodes, axis=1) >= 0)
    for value in (4.0, 5.0):
        mass = np.where(np.abs(found.nodes - value) < 0.5, found.weights, 0).sum(axis=1)
        np.testing.assert_allclose(mass, 1 / N, rtol=N * eps(jnp.float32))


def test_what_is_left_is_unbiased():
    """The search takes out its own nodes, and the probes what its vectors span; over seeds neither is missed."""
    num = 80
    found = [density(MATRIX, seed) for seed in range(num)]
    assert sum(x.nodes.shape[0] == 2 for x in found) >= 0.9 * num
    for fn in (np.asarray, np.square, lambda x: x**3, lambda x: np.cos(3 * x)):
        errors = np.array([np.mean(np.sum(x.weights * fn(x.nodes), axis=1)) - fn(EIGENVALUES).mean() for x in found])
        assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(num)


def test_less_error_than_a_plain_probe():
    exact = np.mean(EIGENVALUES**2)
    plain = [density(MATRIX, seed, num_steps=45, search_steps=0).moments(2)[0] - exact for seed in range(20)]
    found = [density(MATRIX, seed).moments(2)[0] - exact for seed in range(20)]
    assert np.linalg.norm(found) <= 0.5 * np.linalg.norm(plain)


def test_few_steps_find_nothing():
    """Ritz values that are no eigenvalues get no weight of their own."""
    found = density(random_symmetric(np.linspace(-1, 1, 60)), search_steps=3, num_steps=5)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    assert not np.isclose(found.weights, 1 / 60, rtol=1e-4).any()


def test_multiple_outliers_keep_all_of_their_weight():
    """A search knows one vector of a multiple eigenvalue: its rule does not count, and the probe has the rest."""
    matrix = random_symmetric(np.r_[np.full(60, 5.0), np.linspace(-1, 1, 80)])
    found = [density(matrix, seed) for seed in range(20)]
    assert all(x.nodes.shape[0] == 1 for x in found)
    counts = np.array([x.eigenvalue_count(4.5, 5.5)[0] for x in found])
    assert abs(counts.mean() - 60) <= 4 * counts.std() / np.sqrt(20)


def test_inside_of_jit():
    """The run counts for its pairs alone."""
    options = {"num_probes": 2, "num_steps": 15, "search_steps": 30, "driver": "compiled"}
    inside = jax.jit(lambda op, key: spectral.spectral_density(op, key, **options))(operator(MATRIX), KEY)
    assert inside.nodes.shape[0] == 2
    expected = density(MATRIX, num_probes=2, driver="compiled")
    means = np.sum(expected.nodes * expected.weights, axis=1)
    np.testing.assert_allclose(np.sum(inside.nodes * inside.weights, axis=1), means[:2], rtol=1e-4)


def test_split_vectors_stay_split(x64):
    mesh = parallel.data_mesh(8)
    matrix = jnp.asarray(random_symmetric(np.r_[9.0, 8.0, np.linspace(-1, 1, 62)]))
    like = jax.device_put(jnp.zeros(64), NamedSharding(mesh, P("data")))
    split = curvature.FunctionOperator(product, like, matrix)
    whole = curvature.FunctionOperator(product, jnp.zeros(64), matrix)
    found, expected = (
        spectral.spectral_density(op, KEY, num_probes=2, num_steps=10, search_steps=20) for op in (split, whole)
    )
    np.testing.assert_allclose(found.nodes, expected.nodes, atol=1e-8)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-8)


def test_a_checkpoint_holds_the_search_too(tmp_path):
    calls = []

    def counted(v, matrix):
        jax.debug.callback(lambda: calls.append(None))
        return product(v, matrix)

    op = curvature.FunctionOperator(counted, jnp.zeros(N), jnp.float32(MATRIX))
    options = {"num_probes": 1, "num_steps": 5, "search_steps": 10}
    loop = spectral.HostLoop(checkpoint=tmp_path / "density.npz")
    first = spectral.spectral_density(op, KEY, driver=loop, **options)
    jax.effects_barrier()
    assert len(calls) == 15
    again = spectral.spectral_density(op, KEY, driver=loop, **options)
    jax.effects_barrier()
    assert len(calls) <= 15 + 2  # each file repeats one product, to see that it is of this operator
    np.testing.assert_array_equal(first.nodes, again.nodes)
    assert {path.name for path in tmp_path.iterdir()} == {"density.npz", "density.npz.search"}


def test_nan_stays_nan():
    assert np.isnan(density(np.full((N, N), np.nan)).nodes).all()


@pytest.mark.parametrize("values", [np.ones(3), np.ones(8), np.zeros(8), np.r_[1.0, 1, 2], np.r_[5.0, np.zeros(7)]])
def test_runs_that_find_all_that_their_start_has(values):
    """Then nothing is left of which their rule could say anything."""
    for steps in (2, 6):
        found = density(random_symmetric(values), num_probes=2, num_steps=5, search_steps=steps)
        np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
        assert found.nodes.shape[0] == 2
        assert np.isfinite(found.nodes).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_spaces(n):
    found = density(random_symmetric(np.arange(1.0, n + 1)), num_steps=5, search_steps=9)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(found.nodes).all()


def test_bad_input():
    pairs = spectral.extreme_eigenpairs(operator(MATRIX), KEY, max_products=60)
    with pytest.raises(ValueError, match="search_steps: expected 0 beside known pairs; leave one of them out"):
        density(MATRIX, known=pairs)
    with pytest.raises(ValueError, match="search_steps: expected an integer of at least 0, got -1"):
        density(MATRIX, search_steps=-1)
    with pytest.raises(TypeError, match="search_steps: expected a static integer, got float"):
        density(MATRIX, search_steps=2.5)
