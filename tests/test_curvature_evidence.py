"""Evidence for every operator on the whole zoo: dense float64, differences, and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, tree
from tests.oracles import central_difference, dense_gauss_newton, dense_hessian, dense_jacobian, flat, tolerance
from tests.problems import NAMES, problem

pytestmark = pytest.mark.usefixtures("x64")


def close(found, expected, dtype=jnp.float64):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, expected.size, scale))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["forward_over_reverse", "reverse_over_reverse"])
def test_hessian_is_the_dense_one(name, method):
    case = problem(name)
    op = curvature.hessian(case.objective, case.params, case.batch, method=method)
    close(curvature.to_dense(op), dense_hessian(case.objective, case.params, case.batch))


@pytest.mark.parametrize("name", NAMES)
def test_gauss_newton_is_the_dense_one(name):
    case = problem(name)
    op = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    close(curvature.to_dense(op), dense_gauss_newton(case.apply_fn, case.loss, case.params, case.batch))


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_and_its_transpose_are_the_dense_ones(name):
    case = problem(name)
    op = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    expected = dense_jacobian(case.apply_fn, case.params, case.batch.inputs)
    close(curvature.to_dense(op), expected)
    close(curvature.to_dense(op.T), expected.T)
    assert op.T.T is op


@pytest.mark.parametrize("name", NAMES)
def test_tangent_kernel_is_j_j_transpose(name):
    case = problem(name)
    op = curvature.tangent_kernel(case.apply_fn, case.params, case.batch.inputs)
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs)
    dense = np.asarray(curvature.to_dense(op))
    close(dense, jacobian @ jacobian.T)
    nonzero = min(jacobian.shape)
    small = np.linalg.eigvalsh(jacobian.T @ jacobian)[-nonzero:]
    close(np.linalg.eigvalsh(dense)[-nonzero:], small)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tokens"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_structure_matrices_are_the_diagonal_blocks_of_the_kernel(name, chunk_size):
    case = problem(name)
    found = curvature.structure_matrix(case.apply_fn, case.params, case.batch.inputs, chunk_size=chunk_size)
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs)
    blocks = jacobian.reshape(found.shape[0], found.shape[1], -1)
    close(found, np.einsum("bkp,blp->bkl", blocks, blocks))


@pytest.mark.parametrize("name", NAMES)
def test_hessian_agrees_with_central_differences_of_second_order(name):
    case = problem(name)
    v = tree.random_like(jax.random.key(1), case.params)
    product = flat(curvature.hessian(case.objective, case.params, case.batch) @ v)

    gradient_fn = jax.jit(lambda p: jax.grad(case.objective)(p, case.batch))

    def relative_error(epsilon):
        difference = central_difference(gradient_fn, case.params, v, epsilon)
        return np.linalg.norm(difference - product) / np.linalg.norm(product)

    coarse, fine = relative_error(2e-2), relative_error(1e-2)
    rounding = 1e-11  # eps / epsilon, times the size of the gradient over that of the product
    assert fine < rounding or 3.5 < coarse / fine < 4.5


@pytest.mark.parametrize("name", NAMES)
def test_laws(name):
    case = problem(name)
    keys = jax.random.split(jax.random.key(2), 3)
    operators = [
        curvature.hessian(case.objective, case.params, case.batch),
        curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch),
        curvature.tangent_kernel(case.apply_fn, case.params, case.batch.inputs),
    ]
    for op in operators:
        u, v = (tree.random_like(key, op.struct) for key in keys[:2])
        au, av = op @ u, op @ v
        scale = float(tree.norm(au) * tree.norm(v) + tree.norm(av) * tree.norm(u))
        bound = tolerance(jnp.float64, tree.size(op.struct), scale)
        assert abs(tree.vdot(u, av) - tree.vdot(v, au)) <= bound
        combined = op @ tree.axpy(2.5, u, v)
        assert tree.norm(tree.sub(combined, tree.axpy(2.5, au, av))) <= bound
    jacobian = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    u, w = tree.random_like(keys[0], jacobian.struct), tree.random_like(keys[1], jacobian.out_struct)
    left, right = tree.vdot(jacobian @ u, w), tree.vdot(u, jacobian.T @ w)
    assert abs(left - right) <= tolerance(jnp.float64, tree.size(w), abs(float(left)) + 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "not-fenchel-young"])
def test_gauss_newton_of_a_conjugate_is_positive_semidefinite(name):
    case = problem(name)
    dense = np.asarray(curvature.to_dense(curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)))
    eigenvalues = np.linalg.eigvalsh(dense)
    assert eigenvalues[0] >= -tolerance(jnp.float64, dense.size, eigenvalues[-1])


@pytest.mark.parametrize("name", ["linear-squared", "logistic", "tokens", "one-parameter", "flax"])
def test_gauss_newton_is_the_hessian_of_linear_models(name):
    case = problem(name)
    gauss = curvature.to_dense(curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch))
    close(gauss, np.asarray(curvature.to_dense(curvature.hessian(case.objective, case.params, case.batch))))


def test_closed_forms():
    case = problem("linear-squared")
    x = np.asarray(case.batch.inputs)
    expected = np.kron(x.T @ x / len(x), np.eye(2))
    close(curvature.to_dense(curvature.hessian(case.objective, case.params, case.batch)), expected)

    case = problem("logistic")
    p = 1 / (1 + np.exp(-x @ np.asarray(case.params)))[:, 0]
    expected = (x.T * (p * (1 - p))) @ x / len(x)
    close(curvature.to_dense(curvature.hessian(case.objective, case.params, case.batch)), expected)

    case = problem("tokens")
    x, w = np.asarray(case.batch.inputs).reshape(12, 4), np.asarray(case.batch.weight).reshape(12)
    exp = np.exp(x @ np.asarray(case.params))
    p = exp / exp.sum(1, keepdims=True)
    blocks = [wi * np.kron(np.outer(xi, xi), np.diag(pi) - np.outer(pi, pi)) for xi, pi, wi in zip(x, p, w)]
    close(curvature.to_dense(curvature.hessian(case.objective, case.params, case.batch)), sum(blocks) / w.sum())


def test_structure_matrix_of_a_head_with_bias_is_at_least_one_plus_the_features():
    case = problem("softmax-mlp")
    params = {**case.params, "bias": jnp.zeros(3)}

    def fn(p, x):
        return jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["bias"][None]

    matrices = np.asarray(curvature.structure_matrix(fn, params, case.batch.inputs))
    features = np.tanh(np.asarray(case.batch.inputs) @ np.asarray(params["w1"]) + np.asarray(params["b1"]))
    assert np.all(np.linalg.eigvalsh(matrices)[:, 0] >= (1 + (features**2).sum(1)) * (1 - 1e-12))
