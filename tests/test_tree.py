"""The vector space on pytrees, against flat numpy vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import tree
from tests.oracles import flat, tolerance

pytestmark = pytest.mark.fast

LIKE = {"a": jnp.zeros((3, 4)), "b": [jnp.zeros(5), jnp.zeros(())]}
BOUND = {"rtol": 0, "atol": tolerance(jnp.float32, 18, 4.0)}


def vectors(num):
    return [tree.random_like(jax.random.key(seed), LIKE) for seed in range(num)]


def test_inner_products_and_sums():
    u, v = vectors(2)
    np.testing.assert_allclose(tree.vdot(u, v), flat(u) @ flat(v), **BOUND)
    np.testing.assert_allclose(tree.norm(u), np.linalg.norm(flat(u)), **BOUND)
    np.testing.assert_allclose(flat(tree.axpy(2.0, u, v)), 2 * flat(u) + flat(v), **BOUND)
    np.testing.assert_allclose(flat(tree.sub(tree.add(u, v), v)), flat(u), **BOUND)
    assert tree.size(LIKE) == 18


def test_half_precision_accumulates_in_single():
    ones = jnp.ones(1000, jnp.bfloat16)
    assert tree.vdot(ones, ones) == 1000
    assert tree.scale(jnp.float32(2), ones).dtype == jnp.bfloat16


@pytest.mark.parametrize("flatten", [True, False])
def test_basis(flatten):
    us = vectors(3)
    basis = tree.basis_zeros(LIKE, 3, flatten)
    for index, u in enumerate(us):
        basis = tree.basis_set(basis, index, u)
    dense = np.stack([flat(u) for u in us])
    v = tree.random_like(jax.random.key(9), LIKE)
    np.testing.assert_allclose(tree.basis_dot(basis, v), dense @ flat(v), **BOUND)
    coefficients = jnp.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]])
    np.testing.assert_allclose(flat(tree.basis_combine(basis, coefficients[0], LIKE)), coefficients[0] @ dense, **BOUND)
    both = tree.basis_combine(basis, coefficients, LIKE)
    second = jax.tree.map(lambda x: x[1], both)
    np.testing.assert_allclose(flat(second), coefficients[1] @ dense, **BOUND)


def test_random_vectors():
    signs = tree.random_like(jax.random.key(0), LIKE, "rademacher")
    assert set(np.unique(flat(signs))) == {-1.0, 1.0}
    with pytest.raises(ValueError, match="distribution: expected one of"):
        tree.random_like(jax.random.key(0), LIKE, "uniform")
    with pytest.raises(TypeError, match="key: expected one typed PRNG key"):
        tree.random_like(jax.random.PRNGKey(0), LIKE)
