"""Gradient energy against per-example gradients in closed form and one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import theory
from tests.oracles import flat
from tests.problems import NAMES, mlp, problem, smooth_huber

PER_EXAMPLE = [name for name in NAMES if name != "tokens"]


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_mean_of_squared_norms_one_by_one(name, x64):
    case = problem(name)
    batch = case.batch
    weight = np.ones(batch.num_examples) if batch.weight is None else np.asarray(batch.weight)

    def loss_of(params, i):
        return case.loss(case.apply_fn(params, batch.inputs[i : i + 1]), batch.targets[i : i + 1])[0]

    norms = [np.sum(flat(jax.grad(loss_of)(case.params, i)) ** 2) for i in range(batch.num_examples)]
    found = theory.gradient_energy(case.apply_fn, case.loss, case.params, batch)
    np.testing.assert_allclose(found, np.average(norms, weights=weight), rtol=1e-12)


def test_a_sequence_is_one_example_of_weighted_tokens(x64):
    """ℓᵢ = Σ_t w ℓ / Σ_t w with weight Σ_t w; one sequence counts for nothing, one has masked tokens."""
    case = problem("tokens")
    weight = np.array(case.batch.weight)
    weight[0, 1:3] = weight[2] = 0
    targets = np.where(weight == 0, -100, case.batch.targets)
    norms = []
    for x, y, w in zip(case.batch.inputs[:2], targets, weight):
        tokens = np.flatnonzero(w)
        gradients = [
            flat(jax.grad(lambda p, x=x[t], y=y[t]: case.loss((x @ p)[None], y[None])[0])(case.params)) for t in tokens
        ]
        norms.append(np.sum(np.average(gradients, axis=0, weights=w[tokens]) ** 2))
    batch = cljax.Batch(case.batch.inputs, jnp.asarray(targets), jnp.asarray(weight))
    found = theory.gradient_energy(case.apply_fn, case.loss, case.params, batch)
    np.testing.assert_allclose(found, np.average(norms, weights=weight[:2].sum(1)), rtol=1e-12)


def test_squared_loss_in_closed_form(x64):
    case = problem("linear-squared")
    residual = np.asarray(case.batch.inputs @ case.params - case.batch.targets)
    expected = np.mean(np.sum(residual**2, 1) * np.sum(np.asarray(case.batch.inputs) ** 2, 1))
    found = theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 100])
def test_chunks_do_not_change_the_mean(chunk_size, x64):
    case = problem("weighted")
    expected = theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch)
    found = theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch, chunk_size=chunk_size)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_it_bounds_the_squared_norm_of_the_mean_gradient_and_is_bounded_by_the_structure(x64):
    """|mean ∇ℓ|² ≤ E|∇ℓ|² by Jensen, and λ_min |r|² ≤ |∇ℓ|² ≤ λ_max |r|² for each example's residual r."""
    case = problem("softmax-mlp")
    energy = float(theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch))
    assert np.sum(flat(jax.grad(case.objective)(case.params, case.batch)) ** 2) <= energy
    found = theory.structure_extremes(case.apply_fn, case.loss, case.params, case.batch)
    scores = case.apply_fn(case.params, case.batch.inputs)
    residual = jnp.sum((jax.nn.softmax(scores) - jax.nn.one_hot(case.batch.targets, 3)) ** 2, -1)
    assert np.mean(found.per_example_min * residual) <= energy <= np.mean(found.per_example_max * residual)


def test_gradients_are_not_held_all_at_once():
    """Compiled memory beside one example's gradients is a few numbers an example."""
    from cljax.theory.gradient_energy import _energy

    case, temporary = problem("softmax-mlp", jnp.float32), []
    for num in (64, 1024):
        batch = cljax.Batch(jax.ShapeDtypeStruct((num, 4), jnp.float32), jax.ShapeDtypeStruct((num,), jnp.int32))
        lowered = _energy.lower(
            jax.tree_util.Partial(mlp), jax.tree_util.Partial(case.loss), case.params, batch, chunk_size=16
        )
        temporary.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    size = sum(x.size for x in jax.tree.leaves(case.params)) * 4
    assert temporary[1] - temporary[0] <= (1024 - 64) * 16 * 4 < (1024 - 64) * size
    assert temporary[1] <= 4 * 16 * size + 1024 * 64


def test_half_precision_sums_in_single(x64):
    case = problem("softmax-mlp", jnp.bfloat16)
    found = theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch)
    assert found.dtype == jnp.float32


def test_nan_stays_nan_and_no_weight_is_nan():
    case = problem("softmax-mlp", jnp.float32)
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), case.params)
    assert np.isnan(theory.gradient_energy(case.apply_fn, case.loss, bad, case.batch))
    batch = cljax.Batch(case.batch.inputs, case.batch.targets, jnp.zeros(case.batch.num_examples))
    assert np.isnan(theory.gradient_energy(case.apply_fn, case.loss, case.params, batch))


def test_wrong_input():
    case = problem("softmax-mlp", jnp.float32)
    with pytest.raises(TypeError, match="params"):
        theory.gradient_energy(case.apply_fn, case.loss, {"w": jnp.ones(2, int)}, case.batch)
    with pytest.raises(ValueError, match="chunk_size"):
        theory.gradient_energy(case.apply_fn, case.loss, case.params, case.batch, chunk_size=0)
    with pytest.raises(ValueError, match="loss: expected one loss an example"):
        theory.gradient_energy(mlp, lambda s, y: smooth_huber(s, s).mean(), case.params, case.batch)
    empty = jax.tree.map(lambda x: x[:0], case.batch)
    with pytest.raises(ValueError, match="batch"):
        theory.gradient_energy(case.apply_fn, case.loss, case.params, empty)
