"""Dtype in = dtype out, sharding in = sharding out, and the same numbers on eight devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import cljax
from cljax import curvature, losses, parallel, spectral, tree
from tests.oracles import eps, tolerance
from tests.problems import SHANNON, mlp, problem


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_in_is_dtype_out(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        case = problem("softmax-mlp", dtype)
        v = tree.random_like(jax.random.key(0), case.params)
        for op in (
            curvature.hessian(case.objective, case.params, case.batch),
            curvature.hessian(case.objective, case.params, case.batch, microbatch_size=3),
            curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch),
        ):
            assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(op @ v))
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=2)
        work = jnp.promote_types(dtype, jnp.float32)
        assert all(leaf.dtype == work for leaf in jax.tree.leaves((pairs.values, pairs.vectors)))


def test_half_precision_is_right_to_half_precision():
    half, single = (problem("softmax-mlp", dtype) for dtype in (jnp.bfloat16, jnp.float32))
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), half.params)
    found, expected = (
        spectral.extreme_eigenpairs(
            curvature.gauss_newton(single.apply_fn, single.loss, params, batch), jax.random.key(0)
        ).values[0]
        for params, batch in ((half.params, half.batch), (exact, single.batch))
    )
    np.testing.assert_allclose(found, expected, rtol=16 * eps(jnp.bfloat16))


def setting():
    rng = np.random.default_rng(0)
    params = {"w1": rng.standard_normal((16, 64)), "b1": np.zeros(64), "w2": rng.standard_normal((64, 8)) / 8}
    batch = cljax.Batch(rng.standard_normal((64, 16)).astype(np.float32), np.arange(64) % 8, np.ones(64, np.float32))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), jax.tree.map(jnp.asarray, batch)


def placed(params, batch, axis):
    """Batch sharded and parameters whole (axis None), or parameters sharded on one axis."""
    mesh = parallel.data_mesh()

    def sharding(x):
        spec = [None] * x.ndim
        if axis is not None:
            spec[axis] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.device_put(params, jax.tree.map(sharding, params)), parallel.shard_batch(batch, mesh)


OPERATORS = {
    "hessian": lambda p, b: curvature.hessian(losses.objective(mlp, SHANNON), p, b),
    "gauss_newton": lambda p, b: curvature.gauss_newton(mlp, SHANNON, p, b),
}


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("name", OPERATORS)
def test_products_on_eight_devices(name, axis):
    params, batch = setting()
    v = tree.random_like(jax.random.key(0), params)
    expected = OPERATORS[name](params, batch) @ v
    sharded, batch = placed(params, batch, axis)
    found = OPERATORS[name](sharded, batch) @ placed(v, batch, axis)[0]
    for a, b, p in zip(jax.tree.leaves(found), jax.tree.leaves(expected), jax.tree.leaves(sharded)):
        assert a.sharding.is_equivalent_to(p.sharding, a.ndim)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(jnp.float32, 64 * 64, float(jnp.abs(b).max())))


def test_random_vectors_do_not_depend_on_the_sharding():
    params, batch = setting()
    sharded, _ = placed(params, batch, 0)
    one, other = (tree.random_like(jax.random.key(0), p) for p in (params, sharded))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_mesh():
    mesh = parallel.data_mesh(2)
    assert mesh.size == 2
    with pytest.raises(ValueError, match="num_devices: expected at most 8"):
        parallel.data_mesh(9)
    with pytest.raises(ValueError, match="batch: expected a multiple of 2 examples, one share a device, got 3"):
        parallel.shard_batch(jnp.zeros(3), mesh)
    assert parallel.replicate({"a": jnp.zeros(3)}, mesh)["a"].sharding.is_fully_replicated
