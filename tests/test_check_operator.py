"""Operators that are not what a solver takes them for are caught and named; those that are right pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses
from tests.problems import NAMES, SHANNON, problem

KEY = jax.random.key(0)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_operators_of_the_zoo_pass(x64, name, dtype):
    case = problem(name, dtype)
    report = curvature.check_operator(curvature.hessian(case.objective, case.params, case.batch), KEY)
    assert report.ok, report.explain()
    assert report.num_products == 4
    assert "deterministic" in report.explain()


def test_an_operator_that_is_not_symmetric_is_compared_with_its_transpose():
    case = problem("softmax-mlp", jnp.float32)
    jacobian = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    report = curvature.check_operator(jacobian, KEY)
    assert report.ok, report.explain()


def test_differences_pass_by_their_own_error():
    case = problem("softmax-mlp", jnp.float32)
    op = curvature.hessian(case.objective, case.params, case.batch, method="finite_difference")
    report = curvature.check_operator(op, KEY)
    assert report.ok, report.explain()
    assert not curvature.check_operator(op, KEY, tol=1e-7).ok


def dropout(counter):
    def apply_fn(params, x):
        seed = jax.pure_callback(lambda: np.uint32(next(counter)), jax.ShapeDtypeStruct((), jnp.uint32))
        hidden = jnp.tanh(x @ params["w1"])
        kept = jax.random.bernoulli(jax.random.wrap_key_data(jnp.stack([seed, seed])), 0.5, hidden.shape)
        return jnp.where(kept, 2 * hidden, 0) @ params["w2"]

    return apply_fn


def test_dropout_without_a_fixed_key_is_named():
    case = problem("softmax-mlp", jnp.float32)
    objective = losses.objective(dropout(iter(range(10**6))), SHANNON)
    report = curvature.check_operator(curvature.hessian(objective, case.params, case.batch), KEY)
    assert not report.ok
    assert report.determinism_error > 1e-2
    assert "dropout" in report.explain()
    assert len(report.explain().splitlines()) == 1  # what follows from it is not listed


def test_a_loader_that_shuffles_is_named():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((64, 5)).astype(np.float32)

    def product(v):
        rows = data[rng.permutation(64)[:16]]
        return rows.T @ (rows @ np.asarray(v)) / 16

    struct = jnp.zeros(5)
    op = curvature.FunctionOperator(
        lambda v: jax.pure_callback(product, jax.ShapeDtypeStruct((5,), jnp.float32), v), struct
    )
    report = curvature.check_operator(op, KEY)
    assert not report.ok
    assert "loader that shuffles" in report.explain()


@pytest.mark.parametrize("size", [4, 3000])
def test_an_unsymmetric_product_is_caught_at_any_size(size):
    skew = curvature.FunctionOperator(lambda v: v + 1e-3 * jnp.roll(v, 1), jnp.zeros(size))
    report = curvature.check_operator(skew, KEY)
    assert not report.ok
    # ‖A − Aᵀ‖ / ‖A‖ in the Frobenius norm is √2 · 1e-3; one random pair is within a factor of ten of it
    assert 1e-4 < report.symmetry_error < 1e-2
    assert "not symmetric" in report.explain()


def test_a_product_that_is_not_linear_or_not_finite_is_caught():
    bent = curvature.check_operator(curvature.FunctionOperator(lambda v: jnp.abs(v), jnp.zeros(5)), KEY)
    assert "not linear" in bent.explain()
    broken = curvature.check_operator(curvature.FunctionOperator(lambda v: v / 0, jnp.zeros(5)), KEY)
    assert not broken.ok
    assert "not finite" in broken.explain()
    zero = curvature.check_operator(curvature.FunctionOperator(lambda v: 0 * v, jnp.zeros(5)), KEY)
    assert zero.ok


def test_products_in_bfloat16_are_named():
    rng = np.random.default_rng(0)
    params = {"w1": jnp.asarray(rng.standard_normal((16, 32)), jnp.float32) / 4}
    params["w2"] = jnp.asarray(rng.standard_normal((32, 3)), jnp.float32) / 6
    batch = cljax.Batch(jnp.asarray(rng.standard_normal((64, 16)), jnp.float32), jnp.arange(64) % 3)

    def apply_fn(p, x, dtype):
        p, x = jax.tree.map(lambda a: a.astype(dtype), (p, x))
        return (jnp.tanh(x @ p["w1"]) @ p["w2"]).astype(jnp.float32)

    def report(dtype):
        objective = losses.objective(lambda p, x: apply_fn(p, x, dtype), SHANNON)
        return curvature.check_operator(curvature.hessian(objective, params, batch), KEY)

    assert report(jnp.float32).ok
    assert not report(jnp.bfloat16).ok
    assert "bfloat16" in report(jnp.bfloat16).explain()


def test_arguments_are_checked():
    op = curvature.FunctionOperator(lambda v: v, jnp.zeros(5))
    with pytest.raises(TypeError, match=r"^op: expected a cljax\.curvature\.LinearOperator"):
        curvature.check_operator(jnp.eye(3), KEY)
    with pytest.raises(TypeError, match="^key: expected one typed PRNG key"):
        curvature.check_operator(op, 0)
    with pytest.raises(ValueError, match="^tol: expected"):
        curvature.check_operator(op, KEY, tol=2.0)
