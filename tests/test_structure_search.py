"""Extreme eigenvalues of structure matrices from products, against whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import theory, tree
from cljax.curvature.example_jacobian import read_apply
from cljax.theory import structure
from cljax.theory.structure_search import search_extremes
from tests.oracles import tolerance
from tests.problems import SHANNON, problem
from tests.test_structure_factors import CASES, random_inputs, random_params, whole_rows

NUM_SCORES = 80


def mlp(params, x):
    return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"]


def many_scores(dtype, num_examples=3):
    params = tree.scale(0.2, random_params({"a": (16, 24), "b": (24,), "c": (24, NUM_SCORES)}, dtype))
    labels = jnp.arange(num_examples) % NUM_SCORES
    return params, cljax.Batch(random_inputs((16,), num_examples, dtype), labels)


@pytest.mark.parametrize("name", ["mlp", "attention", "grouped conv", "conv", "shared at several places", "scan"])
def test_products_are_those_of_whole_rows(name, x64):
    case = CASES[name]
    params, inputs = random_params(case.shapes), random_inputs(case.input_shape)
    rows = np.asarray(whole_rows(case.apply_fn, params, inputs))
    directions = np.random.default_rng(2).standard_normal((2, rows.shape[1]))
    model = read_apply(case.apply_fn, params, inputs)
    found = jax.jit(jax.vmap(lambda x: model.jacobian(params, x)[1].multiply(jnp.asarray(directions))))(inputs)
    expected = np.einsum("mk,nkp,nlp->nml", directions, rows, rows)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("subspace", ["full", "centered"])
def test_many_scores(subspace):
    params, batch = many_scores(jnp.float32)
    options = {"subspace": subspace, "chunk_size": 2, "method": "matrix_free"}
    found = theory.structure_extremes(mlp, SHANNON, params, batch, **options)
    whole = theory.structure_extremes(mlp, SHANNON, params, batch, subspace=subspace, method="dense")
    assert whole.residual_norms is None
    assert found.converged.all()
    assert (found.num_products < 100).all()
    assert (found.residual_norms <= 1e-3 * np.stack([found.per_example_min, found.per_example_max], 1)).all()
    # values are second-order in the residual; whole matrices are known to K eps λ_max
    atol = tolerance(jnp.float32, NUM_SCORES, float(whole.lambda_max))
    for name in ("per_example_min", "per_example_max", "lambda_min", "lambda_max"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-5, atol=atol)


def test_what_did_not_converge_is_no_number():
    params, batch = many_scores(jnp.float32)
    found = theory.structure_extremes(mlp, SHANNON, params, batch, method="matrix_free", max_products=6)
    whole = theory.structure_extremes(mlp, SHANNON, params, batch, method="dense")
    assert not found.converged.all()
    assert np.isnan(found.lambda_min)
    assert np.isnan(found.spread)
    assert (found.per_example_min >= whole.per_example_min * (1 - 1e-5)).all()
    assert (found.per_example_max <= whole.per_example_max * (1 + 1e-5)).all()


def test_nan_stays_nan():
    params, batch = many_scores(jnp.float32)
    broken = cljax.Batch(batch.inputs.at[1].set(jnp.nan), batch.targets, jnp.array([1.0, 1.0, 1.0]))
    options = {"method": "matrix_free", "max_products": 60}
    found = theory.structure_extremes(mlp, SHANNON, params, broken, **options)
    np.testing.assert_array_equal(found.converged.all(1), [True, False, True])
    assert np.isnan([found.lambda_min, found.lambda_max, found.spread]).all()
    aside = theory.structure_extremes(
        mlp, SHANNON, params, cljax.Batch(broken.inputs, batch.targets, jnp.array([1.0, 0, 1]))
    )
    assert np.isfinite([aside.lambda_min, aside.lambda_max]).all()


@pytest.mark.parametrize("name", ["softmax-mlp", "conv", "flax"])
def test_few_scores(name, x64):
    case = problem(name)
    arguments = case.apply_fn, case.loss, case.params, case.batch
    found = theory.structure_extremes(*arguments, method="matrix_free", tol=1e-8, subspace="full")
    whole = theory.structure_extremes(*arguments, subspace="full")
    assert found.converged.all()
    np.testing.assert_allclose(found.per_example_max, whole.per_example_max, rtol=1e-10)
    np.testing.assert_allclose(found.per_example_min, whole.per_example_min, rtol=1e-7)


def test_memory_grows_neither_with_the_parameters_nor_with_the_square_of_the_scores():
    held = []
    for width, num_scores in [(64, 512), (512, 512), (64, 2048)]:
        shapes = {"a": (width, width), "b": (width,), "c": (width, num_scores)}
        params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        x = jax.ShapeDtypeStruct((8, width), jnp.float32)
        options = {"centered": True, "chunk_size": None, "max_products": 32}
        lowered = search_extremes.lower(jax.tree_util.Partial(mlp), params, x, jax.random.key(0), 1e-3, **options)
        held.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert held[1] <= 1.5 * held[0]
    assert held[2] <= 4.5 * held[0]


def test_method_is_chosen_and_checked():
    case = problem("softmax-mlp", jnp.float32)
    arguments = case.apply_fn, case.loss, case.params, case.batch
    assert theory.structure_extremes(*arguments).num_products is None
    assert theory.structure_extremes(*arguments, method="matrix_free").num_products.shape == (7,)
    assert not structure._is_matrix_free("auto", 512, 512, False)
    assert structure._is_matrix_free("auto", 513, 512, False)
    assert not structure._is_matrix_free("auto", 513, 513, True)
    with pytest.raises(ValueError, match=r"method: expected one of .*got 'sparse'"):
        theory.structure_extremes(*arguments, method="sparse")
    with pytest.raises(ValueError, match="spectra: expected False with method 'matrix_free'"):
        theory.structure_extremes(*arguments, method="matrix_free", spectra=True)
    with pytest.raises(ValueError, match="tol: expected a relative tolerance"):
        theory.structure_extremes(*arguments, method="matrix_free", tol=2.0)
    with pytest.raises(ValueError, match="max_products: expected an integer of at least 4, got 3"):
        theory.structure_extremes(*arguments, method="matrix_free", max_products=3)
    with pytest.raises(TypeError, match="key: expected one typed PRNG key"):
        theory.structure_extremes(*arguments, method="matrix_free", key=0)
    one = problem("logistic", jnp.float32)
    with pytest.raises(ValueError, match="method: expected at least 2 dimensions for 'matrix_free', got 1"):
        theory.structure_extremes(one.apply_fn, one.loss, one.params, one.batch, method="matrix_free")
