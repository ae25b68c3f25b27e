"""Derivatives of eigenvalues against dense float64 and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral
from tests.oracles import dense_hessian, flat
from tests.problems import problem


def test_derivative_of_the_top_eigenvalue_of_a_hessian(x64):
    case = problem("softmax-mlp")

    def top(params):
        op = curvature.hessian(case.objective, params, case.batch)
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=1, num_bottom=1, tol=1e-10)
        return pairs.values[1] - 0.5 * pairs.values[0]

    gradient = jax.jit(jax.grad(top))(case.params)

    def exact(params):
        values = np.linalg.eigvalsh(dense_hessian(case.objective, params, case.batch))
        return values[-1] - 0.5 * values[0]

    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), case.params)
    expected = float(flat(gradient) @ flat(direction))
    errors = []
    for epsilon in (1e-3, 5e-4):
        ends = [exact(jax.tree.map(lambda p, d, e=e: p + e * d, case.params, direction)) for e in (epsilon, -epsilon)]
        errors.append(abs((ends[0] - ends[1]) / (2 * epsilon) - expected))
    # central differences: the error falls with the square of the step, down to rounding and the residuals
    assert errors[1] <= errors[0] / 3 + 1e-8 * abs(expected)
    assert errors[0] <= 1e-3 * abs(expected)


def test_vectors_are_constants_and_values_the_same(x64):
    matrix = jnp.diag(jnp.array([3.0, 1.0, -2.0]))

    def pairs(matrix):
        op = curvature.FunctionOperator(lambda v, a: a @ v, matrix[0], matrix)
        return spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=1, tol=1e-9)

    value, gradient = jax.value_and_grad(lambda m: pairs(m).values[0])(matrix)
    np.testing.assert_allclose(value, 3, rtol=1e-9)
    np.testing.assert_allclose(gradient, np.diag([1.0, 0, 0]), atol=1e-6)
    assert not np.any(jax.grad(lambda m: jnp.sum(pairs(m).vectors))(matrix))
    with pytest.raises(NotImplementedError, match="values: expected one derivative of an eigenvalue at most, got two"):
        jax.hessian(lambda m: pairs(m).values[0])(matrix)


def test_a_check_direction_is_a_constant(x64):
    """A start of the search, and no part of what is found: a run cut short depends on it, its derivative does not."""
    entries = jnp.linspace(1.0, 2.0, 50)
    op = curvature.FunctionOperator(lambda v, a: a * v, entries, entries)

    def found(check):
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), check=check, max_products=4)
        return pairs.values, pairs.vectors

    other = found(jnp.flip(entries))
    primals, tangents = jax.jvp(found, (entries,), (jnp.sin(entries),))
    assert not np.allclose(primals[0], other[0], rtol=1e-6)
    assert not any(np.any(tangent) for tangent in tangents)
