"""Operators in other libraries, and operators of users."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import matfree.decomp
import numpy as np
import pytest
import scipy.sparse.linalg as sla

from cljax import curvature, spectral, tree
from tests.oracles import eps, tolerance
from tests.problems import problem

pytestmark = pytest.mark.fast


def hessian(name="softmax-mlp", dtype=jnp.float64):
    case = problem(name, dtype)
    return curvature.hessian(case.objective, case.params, case.batch)


def test_scipy_eigsh(x64):
    op = hessian()
    expected = sla.eigsh(curvature.to_scipy(op), k=2, which="LA", return_eigenvectors=False)
    found = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=2, tol=1e-10)
    np.testing.assert_allclose(found.values, np.sort(expected), rtol=1e-9)


def test_scipy_transpose(x64):
    case = problem("softmax-mlp")
    op = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    flat = curvature.to_scipy(op)
    u = np.random.default_rng(0).standard_normal(flat.shape[0])
    np.testing.assert_allclose(flat.rmatvec(u), np.asarray(curvature.to_dense(op)).T @ u, atol=1e-13)


def test_lineax_solves(x64):
    case = problem("linear-squared")
    op = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    right = tree.random_like(jax.random.key(0), case.params)
    solver = lineax.CG(rtol=1e-12, atol=1e-12)
    solution = lineax.linear_solve(curvature.to_lineax(op, positive_semidefinite=True), right, solver).value
    np.testing.assert_allclose(op @ solution, right, atol=1e-9)


def test_matfree_tridiagonalizes_to_the_same_eigenvalues(x64):
    op = hessian()
    zero = tree.zeros_like(op.struct)
    flat, unravel = jax.flatten_util.ravel_pytree(zero)
    start = jnp.asarray(np.random.default_rng(0).standard_normal(flat.size))
    algorithm = matfree.decomp.tridiag_sym(10, reortho="full")
    decomposition = algorithm(lambda v: jax.flatten_util.ravel_pytree(op @ unravel(v))[0], start)
    own = spectral.lanczos(op, unravel(start), 10)
    T = np.diag(own.alphas) + np.diag(own.betas[:-1], 1) + np.diag(own.betas[:-1], -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(decomposition.J_small), np.linalg.eigvalsh(T), atol=1e-10)


def test_models_that_are_pytrees_keep_their_arrays_as_leaves():
    model = eqx.nn.Linear(3, 2, key=jax.random.key(0))

    class Penalty(eqx.Module):
        model: eqx.Module

        def __call__(self, w):
            return jnp.sum(w**2 * jnp.sum(self.model.weight))

    op = curvature.hessian(Penalty(model), jnp.ones(3))
    assert any(leaf is model.weight for leaf in jax.tree.leaves(op))
    np.testing.assert_allclose(op @ jnp.ones(3), 2 * jnp.sum(model.weight), rtol=8 * eps(jnp.float32))


def test_sums_and_multiples(x64):
    case = problem("softmax-mlp")
    op = hessian()
    other = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    expected = np.asarray(curvature.to_dense(op)) + 2.5 * np.asarray(curvature.to_dense(other))
    found = curvature.to_dense(op + other.scale(2.5))
    np.testing.assert_allclose(found, expected, atol=tolerance(jnp.float64, 9, np.abs(expected).max()))
    J = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    np.testing.assert_allclose(curvature.to_dense((J + J.scale(2.0)).T), 3 * curvature.to_dense(J).T, atol=1e-13)
    with pytest.raises(TypeError, match="unsupported operand"):
        op + 1
    with pytest.raises(ValueError, match="other: expected the pytree structure"):
        op + curvature.tangent_kernel(case.apply_fn, case.params, case.batch.inputs)


def test_a_users_own_product_travels_through_jit():
    op = curvature.FunctionOperator(lambda v, d: {"a": d * v["a"]}, {"a": jnp.zeros(3)}, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(jax.jit(lambda op: curvature.to_dense(op))(op), np.diag([1.0, 2.0, 3.0]))


def test_to_dense_is_guarded():
    op = curvature.FunctionOperator(lambda v: v, jnp.zeros(100_000))
    with pytest.raises(ValueError, match=r"op: expected a matrix of at most 1 GiB, got 100000 x 100000 \(37.3 GiB\)"):
        curvature.to_dense(op)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: curvature.hessian(jnp.sum, jnp.arange(3)), TypeError, "params: expected a real floating-point array"),
        (lambda: curvature.hessian(jnp.sum, {"a": {"b": 1.0}}), TypeError, r"params\['a'\]\['b'\]: expected"),
        (lambda: curvature.hessian(jnp.sum, {}), ValueError, "params: expected a pytree with at least one array"),
        (lambda: curvature.hessian(jnp.sum, jnp.ones(3), method="fast"), ValueError, "method: expected one of"),
        (lambda: curvature.hessian(3, jnp.ones(3)), TypeError, "objective_fn: expected a function, got int"),
        (
            lambda: curvature.hessian(lambda w: w, jnp.ones(3)) @ jnp.ones(3),
            ValueError,
            "objective_fn: expected a scalar",
        ),
        (lambda: hessian(dtype=jnp.float32) @ jnp.ones(3), ValueError, "v: expected the pytree structure"),
        (lambda: curvature.hessian(jnp.sum, jnp.ones(3)) @ jnp.ones(4), ValueError, r"v: expected shape \(3,\)"),
        (lambda: curvature.hessian(jnp.sum, jnp.ones(3)) @ jnp.arange(3), TypeError, "v: expected dtype float32"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
