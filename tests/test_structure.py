"""Extremes of structure matrices against dense Jacobians in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import losses, theory
from tests.oracles import dense_jacobian, tolerance
from tests.problems import linear, problem

pytestmark = pytest.mark.fast


def test_structure_matrices_are_the_blocks_of_the_dense_kernel(x64):
    case = problem("softmax-mlp")
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(7, 3, -1)
    expected = np.stack([np.linalg.eigvalsh(rows @ rows.T) for rows in jacobian])
    found = theory.structure_extremes(case.apply_fn, case.loss, case.params, case.batch, subspace="full")
    np.testing.assert_allclose(found.per_example_min, expected[:, 0], atol=1e-12 * expected.max())
    np.testing.assert_allclose(found.per_example_max, expected[:, -1], rtol=1e-12)


def test_the_softmax_loss_has_its_structure_on_the_complement_of_ones(x64):
    case = problem("weighted")
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(7, 3, -1)
    # an eigendecomposition of the projection is another way to the complement than a reflection
    basis = np.linalg.eigh(np.eye(3) - 1 / 3)[1][:, 1:]
    inside = np.stack([np.linalg.eigvalsh(basis.T @ rows @ rows.T @ basis) for rows in jacobian])
    counted = np.asarray(case.batch.weight) > 0
    found = theory.structure_extremes(case.apply_fn, case.loss, case.params, case.batch)
    np.testing.assert_allclose(found.per_example_min, inside[:, 0], rtol=1e-10)
    np.testing.assert_allclose(found.lambda_min, inside[counted, 0].min(), rtol=1e-10)
    np.testing.assert_allclose(found.lambda_max, inside[counted, -1].max(), rtol=1e-10)
    np.testing.assert_allclose(found.spread, np.log(inside[counted, -1].max() / inside[counted, 0].min()), rtol=1e-10)


@pytest.mark.parametrize("subspace", ["full", "centered"])
def test_whole_spectra(subspace, x64):
    case = problem("softmax-mlp")
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(7, 3, -1)
    basis = np.eye(3) if subspace == "full" else np.linalg.eigh(np.eye(3) - 1 / 3)[1][:, 1:]
    expected = np.stack([np.linalg.eigvalsh(basis.T @ rows @ rows.T @ basis) for rows in jacobian])
    found = theory.structure_extremes(
        case.apply_fn, case.loss, case.params, case.batch, subspace=subspace, chunk_size=2, spectra=True
    )
    np.testing.assert_allclose(found.spectra, expected, rtol=1e-10, atol=1e-12 * expected.max())
    np.testing.assert_array_equal(found.spectra[:, 0], found.per_example_min)


def test_a_singular_structure_matrix_has_infinite_spread_and_nan_stays_nan():
    loss = losses.fenchel_young(losses.squared())
    batch = cljax.Batch(jnp.ones((2, 1)), jnp.ones((2, 2)))

    def tied(params, x):
        return jnp.concatenate([x @ params, x @ params], -1)

    found = theory.structure_extremes(tied, loss, jnp.ones((1, 1)), batch)
    assert float(found.lambda_max) == pytest.approx(2)
    assert abs(float(found.lambda_min)) < 1e-6
    assert np.isposinf(found.spread)
    zero = theory.structure_extremes(tied, loss, jnp.ones((1, 1)), cljax.Batch(jnp.zeros((2, 1)), batch.targets))
    assert float(zero.lambda_max) == 0
    assert np.isposinf(zero.spread)
    broken = theory.structure_extremes(
        tied, loss, jnp.ones((1, 1)), cljax.Batch(jnp.full((2, 1), jnp.nan), batch.targets)
    )
    assert np.isnan([broken.lambda_min, broken.lambda_max, broken.spread]).all()


def test_subspace_is_checked():
    case = problem("logistic", jnp.float32)
    with pytest.raises(ValueError, match=r"subspace: expected one of .*got 'half'"):
        theory.structure_extremes(case.apply_fn, case.loss, case.params, case.batch, subspace="half")
    with pytest.raises(ValueError, match="at least 2 scores"):
        theory.structure_extremes(case.apply_fn, case.loss, case.params, case.batch, subspace="centered")


def test_examples_count_where_their_weight_is_above_0():
    inputs, loss = jnp.arange(1.0, 6.0)[:, None], losses.fenchel_young(losses.squared())
    batch = cljax.Batch(inputs, jnp.ones((5, 2)), jnp.array([-1.0, 2.0, 0.5, 0.0, jnp.nan]))
    found = theory.structure_extremes(linear, loss, jnp.ones((1, 2)), batch)
    np.testing.assert_allclose([found.lambda_min, found.lambda_max], [4, 9], rtol=tolerance(jnp.float32, 2))
    for method in ("dense", "matrix_free"):
        with pytest.raises(ValueError, match=r"weight: expected shape \(5,\), got \(5, 1\)"):
            theory.structure_extremes(
                linear, loss, jnp.ones((1, 2)), cljax.Batch(inputs, batch.targets, jnp.ones((5, 1))), method=method
            )
