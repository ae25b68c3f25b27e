"""Microbatches on a mesh where something is unusual: masked targets, open constraints, callbacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cljax
from cljax import curvature, losses, parallel
from tests.problems import SHANNON, mlp
from tests.test_microbatch_mesh import COUNTED, assert_same, features, head, hessian, like, placed, problem

MESH = "data=4,model=2"


def on_mesh(batch):
    return parallel.shard_batch(batch, parallel.make_mesh(MESH), "data")


@pytest.mark.parametrize("name", ["hessian", "gauss_newton"])
def test_masked_targets_in_microbatches_of_weight_zero(name, x64):
    """The last of four devices has examples of weight 0 alone, and all of their targets are masked."""
    params, batch = problem()
    masked = jnp.where(jnp.arange(len(batch.targets)) < COUNTED, batch.targets, -100)
    batch = cljax.Batch(batch.inputs, masked, batch.weight)
    split, parts = placed("data")[0], on_mesh(batch)

    def make(params, batch, size):
        if name == "hessian":
            return hessian(params, batch, size)
        return curvature.gauss_newton(mlp, SHANNON, params, batch, microbatch_size=size)

    expected = make(params, batch, None) @ like(params)
    assert_same(make(split, parts, 20) @ like(split), expected)
    assert_same(make(params, batch, 20) @ like(params), expected)
    assert_same(make(split, parts, None) @ like(split), expected)


def test_weights_that_cancel_in_a_microbatch_are_not_taken_for_padding():
    """Outside of jit negative weights are refused; inside they are not known, and no plausible number may come out."""
    params = jnp.ones((2, 1))
    batch = cljax.Batch(jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]]), jnp.zeros((4, 1)))
    objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))

    @jax.jit
    def product(weight):
        weighted = cljax.Batch(batch.inputs, batch.targets, weight)
        return curvature.hessian(objective, params, weighted, microbatch_size=2) @ params

    assert jnp.isnan(product(jnp.array([1.0, 1.0, -1.0, 2.0]))).any()  # example i is in microbatch i mod 2
    np.testing.assert_allclose(product(jnp.array([1.0, 0.0, 1.0, 0.0])), [[5], [0]], rtol=1e-6)
    np.testing.assert_allclose(product(jnp.array([2.0, -1.0, 2.0, 2.0])), [[4], [0.2]], rtol=1e-6)


def open_constraint(params, x):
    """A model that leaves the axes of a constraint to the compiler."""
    sharding = NamedSharding(parallel.make_mesh(MESH), P(P.UNCONSTRAINED, None))
    return head(params, jax.lax.with_sharding_constraint(features(params, x), sharding))


def calls_back(params, x):
    """A model with a constant from the host."""
    scale = jax.pure_callback(lambda: np.float32(1.5), jax.ShapeDtypeStruct((), jnp.float32))
    return mlp(params, x) * jax.lax.stop_gradient(scale)


@pytest.mark.parametrize("fn", [open_constraint, calls_back])
def test_models_that_need_all_axes(fn, x64):
    params, batch = placed("data")
    found = jax.block_until_ready(hessian(params, batch, 16, fn=fn) @ like(params))
    expected = hessian(*problem(), None, fn=mlp if fn is open_constraint else lambda p, x: 1.5 * mlp(p, x))
    assert_same(found, expected @ like(problem()[0]))


def test_weights_in_a_closure_of_a_jitted_function(x64):
    """Known values are looked at, wherever they lie: a negative weight is an error inside of jit too."""
    params, batch = placed("data")
    found = jax.jit(lambda p, v: hessian(p, batch) @ v)(params, like(params))
    assert_same(found, hessian(*problem(), None) @ like(problem()[0]))
    negative = cljax.Batch(batch.inputs, batch.targets, -batch.weight)
    with pytest.raises(ValueError, match=r"batch\.weight: expected no negative weight"):
        jax.jit(lambda p, v: hessian(p, negative) @ v)(params, like(params))
