"""What operators say of the signs of their eigenvalues, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, losses
from tests.problems import problem


def operators():
    case = problem("softmax-mlp")
    given = case.apply_fn, case.loss, case.params, case.batch
    gauss_newton, hessian = curvature.gauss_newton(*given), curvature.hessian(case.objective, case.params, case.batch)
    jacobian = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    objective = losses.chunked_objective(
        lambda params, x: x, lambda params, x: case.apply_fn(params, x), case.loss, chunk_size=2
    )
    return {
        "gauss_newton": (gauss_newton, True),
        "hessian": (hessian, False),
        "a loss that may not be convex": (
            curvature.gauss_newton(case.apply_fn, lambda s, y: -jnp.sum(s**2, -1), case.params, case.batch),
            False,
        ),
        "fisher": (curvature.fisher(*given, kind="empirical"), True),
        "chunked": (curvature.chunked_gauss_newton(objective, case.params, case.batch), True),
        "kernel": (curvature.tangent_kernel(case.apply_fn, case.params, case.batch.inputs), True),
        "streamed": (
            curvature.streamed(lambda batch: curvature.gauss_newton(*given[:3], batch), [case.batch]),
            True,
        ),
        "sum": (gauss_newton + gauss_newton, True),
        "sum with a Hessian": (gauss_newton + hessian, False),
        "negative": (-gauss_newton, False),
        "JᵀJ": (curvature.compose(jacobian.T, jacobian), True),
        "J JᵀJ Jᵀ": (curvature.compose(jacobian, gauss_newton, jacobian.T), True),
        "with a Hessian inside": (curvature.compose(jacobian, hessian, jacobian.T), False),
        "preconditioned": (curvature.precondition(gauss_newton, 2.0), True),
        "shifted": (curvature.shift(gauss_newton, -1.0), False),
        "restricted": (curvature.restrict(gauss_newton, lambda path: path == first(case.params)), True),
        "jacobian": (jacobian, False),
    }


def first(params):
    path, _ = jax.tree_util.tree_leaves_with_path(params)[0]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def test_what_is_said_is_so(x64):
    for name, (op, said) in operators().items():
        assert op.positive_semidefinite is said, name
        leaves, treedef = jax.tree.flatten(op)
        assert jax.tree.unflatten(treedef, leaves).positive_semidefinite is said, name  # through jit
        if said and not op.host_only:
            values = np.linalg.eigvalsh(np.asarray(curvature.to_dense(op)))
            assert values[0] >= -1e-12 * values[-1], name


def test_a_function_is_what_the_user_says():
    ones = jnp.ones(2)
    op = curvature.FunctionOperator(jnp.multiply, ones, ones, positive_semidefinite=True)
    leaves, treedef = jax.tree.flatten(op)
    assert jax.tree.unflatten(treedef, leaves).positive_semidefinite
    assert not curvature.FunctionOperator(jnp.multiply, ones, ones).positive_semidefinite
    lineax = pytest.importorskip("lineax")
    assert lineax.is_positive_semidefinite(curvature.to_lineax(op))
    assert not lineax.is_positive_semidefinite(curvature.to_lineax(op, positive_semidefinite=False))
