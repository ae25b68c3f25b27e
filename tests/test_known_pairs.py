"""Densities with known eigenpairs: their weights are exact, and what is left is that of the other eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cljax import curvature, spectral
from tests.oracles import eps
from tests.test_density import EIGENVALUES, MATRIX, MODES
from tests.test_lanczos import DRIVERS, operator, random_symmetric

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def known():
    pairs = spectral.extreme_eigenpairs(operator(MATRIX), KEY, num_top=2, max_products=200)
    assert pairs.converged.all()
    return pairs


@DRIVERS
@MODES
def test_known_pairs_have_their_exact_weight(known, reorthogonalize, driver):
    op, n = operator(MATRIX), len(EIGENVALUES)
    options = {"num_probes": 8, "num_steps": 30, "reorthogonalize": reorthogonalize, "driver": driver}
    plain = spectral.spectral_density(op, KEY, **options)
    found = spectral.spectral_density(op, KEY, known=known, **options)
    assert found.num_products == plain.num_products
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    for value in (4.0, 5.0):
        mass = np.where(np.abs(found.nodes - value) < 0.5, found.weights, 0).sum(axis=1)
        # the residual is that of rounding, and so is what a probe has of the vector
        np.testing.assert_allclose(mass, 1 / n, rtol=n * eps(jnp.float32))
        count, error = found.eigenvalue_count(value - 0.5, value + 0.5)
        assert abs(count - 1) <= 1e-4
    for power in (1, 2):
        exact = np.mean(EIGENVALUES**power)
        mean, error = found.moments(power)
        # Student's law with 7 degrees of freedom at four standard deviations
        assert abs(mean - exact) <= 7 * error
    # the outliers' squares, 16 and 25 beside a bulk of mean square 1/3, are what scatters most
    assert found.moments(2)[1] <= 0.5 * plain.moments(2)[1]


def test_a_checkpoint_with_other_pairs_is_refused(known, tmp_path):
    loop = spectral.HostLoop(checkpoint=tmp_path / "density.npz")
    options = {"num_probes": 2, "num_steps": 5, "driver": loop}
    spectral.spectral_density(operator(MATRIX), KEY, known=known, **options)
    with pytest.raises(ValueError, match="is of another run .*known pairs.* differ"):
        spectral.spectral_density(operator(MATRIX), KEY, **options)


def test_pairs_of_which_some_are_accurate(known):
    """A search that is told to want more than its products can find leaves those that it found."""
    op = operator(MATRIX)
    search = spectral.extreme_eigenpairs(op, KEY, num_top=5, num_bottom=5, max_products=20, certify=False)
    accurate = np.asarray(search.accurate)
    assert 2 <= accurate.sum() < 10
    found = search.only_accurate()
    np.testing.assert_array_equal(found.values, np.asarray(search.values)[accurate])
    np.testing.assert_array_equal(found.vectors, np.asarray(search.vectors)[accurate])
    assert found.accurate.all()
    np.testing.assert_allclose(found.values[-2:], [4.0, 5.0], rtol=1e-3)
    density = spectral.spectral_density(op, KEY, known=found, num_probes=4, num_steps=20)
    mean, error = density.moments(2)
    assert abs(mean - np.mean(EIGENVALUES**2)) <= 7 * error
    # pairs of which none is accurate are none
    few = spectral.extreme_eigenpairs(op, KEY, max_products=4, tol=1e-6).only_accurate()
    assert few.values.shape == (0,)
    plain = spectral.spectral_density(op, KEY, known=few, num_probes=4, num_steps=20)
    assert plain.nodes.shape == (4, 20)
    np.testing.assert_allclose(plain.weights.sum(axis=1), 1, rtol=1e-5)


def test_as_many_pairs_as_leave_one_eigenvalue():
    values = np.array([3.0, 2.0, 1.0], np.float32)
    op = operator(np.diag(values))
    pairs = spectral.extreme_eigenpairs(op, KEY, num_top=2)
    found = spectral.spectral_density(op, KEY, known=pairs, num_probes=2, driver="compiled")
    np.testing.assert_allclose(found.nodes, [[1.0, 2.0, 3.0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found.weights, 1 / 3, rtol=1e-5)


@MODES
def test_what_is_left_of_two_dimensions(reorthogonalize):
    """Probes of signs would lie in the known vector's line now and then."""
    op = operator(np.array([[2.0, 1.0], [1.0, 2.0]]))
    for seed in range(6):
        key = jax.random.key(seed)
        pairs = spectral.extreme_eigenpairs(op, key, num_top=1)
        found = spectral.spectral_density(op, key, num_probes=8, known=pairs, reorthogonalize=reorthogonalize)
        np.testing.assert_allclose(found.nodes, [[1.0, 3.0]] * 8, rtol=1e-5)


def test_no_bias_in_few_dimensions():
    values = np.array([0.0, 0, 0, 1, 5, 6])
    op = operator(random_symmetric(values))
    pairs = spectral.extreme_eigenpairs(op, KEY, num_top=2)
    options = {"num_probes": 4000, "reorthogonalize": False, "driver": "compiled"}
    mean, error = spectral.spectral_density(op, KEY, known=pairs, **options).moments(1)
    assert abs(mean - 2) <= 4 * error


@MODES
@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_on_a_mesh_of_explicit_axes(reorthogonalize, driver):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        diagonal = jax.device_put(jnp.r_[jnp.linspace(-1, 1, 14), 4.0, 5.0], NamedSharding(mesh, PartitionSpec("x")))
        op = curvature.FunctionOperator(lambda v, d: d * v, diagonal, diagonal)
        pairs = spectral.extreme_eigenpairs(op, KEY, num_top=2, check=diagonal, driver=driver)
        found = spectral.spectral_density(
            op, KEY, num_probes=4, known=pairs, reorthogonalize=reorthogonalize, driver=driver
        )
    for value in (4.0, 5.0):
        mass = np.where(np.abs(found.nodes - value) < 0.5, found.weights, 0).sum(axis=1)
        np.testing.assert_allclose(mass, 1 / 16, rtol=1e-4)


def test_bad_input(known):
    op = operator(MATRIX)
    with pytest.raises(TypeError, match="known: expected Eigenpairs of a previous call, got list"):
        spectral.spectral_density(op, KEY, known=[1.0])
    with pytest.raises(ValueError, match=r"known.vectors: expected"):
        spectral.spectral_density(operator(np.eye(3)), KEY, known=known)
    bad = spectral.extreme_eigenpairs(op, KEY, max_products=4, tol=1e-6)
    with pytest.raises(ValueError, match=r"known: expected accurate pairs, got the status \['budget'\]"):
        spectral.spectral_density(op, KEY, known=bad)
    small = operator(np.diag([1.0, 2.0]))
    every = spectral.extreme_eigenpairs(small, KEY, num_top=2)
    with pytest.raises(ValueError, match="known: expected fewer pairs than the dimension 2, got as many"):
        spectral.spectral_density(small, KEY, known=every)
