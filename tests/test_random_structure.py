"""Statements about random Jacobians and sampling: what holds, and what is printed wrongly (E7, E9)."""

import itertools

import jax.numpy as jnp
import numpy as np

from cljax import curvature, theory
from tests.oracles import dense_jacobian
from tests.problems import SQUARED, mlp
from tests.test_risk_bounds import random_net


def ball(rng, dim, num, radius=1.0):
    """Columns iid uniform in a ball."""
    x = rng.standard_normal((dim, num))
    return radius * x / np.linalg.norm(x, axis=0) * rng.random(num) ** (1 / dim)


def test_e7_a_least_eigenvalue_is_below_the_diagonal_not_above():
    """Proposition 5.1 prints σ_min ≥ (1 − 2 log d/m) ε; a least eigenvalue is at most the least diagonal entry."""
    num, dim, outputs = 60, 4000, 10
    rng = np.random.default_rng(0)
    shrink = 1 - 2 * np.log(outputs) / dim
    wrong = 0
    for _ in range(num):
        columns = ball(rng, dim, outputs)
        singular = np.linalg.svd(columns, compute_uv=False)
        wrong += singular[-1] < shrink
        assert singular[-1] ** 2 <= (np.linalg.norm(columns, axis=0) ** 2).min() * (1 + 1e-12)
        # the ratio claim, and the form of it that can be proved
        ratio = (singular[0] / singular[-1]) ** 2
        zeta = 2 * outputs * np.sqrt(6 * np.log(outputs)) / np.sqrt(dim - 1) / shrink**2
        assert ratio <= zeta + 1
        delta = (outputs - 1) * np.sqrt(6 * np.log(outputs) / (dim - 1))
        if delta < shrink**2:
            assert ratio <= (1 + delta) / (shrink**2 - delta)
    assert wrong == num


def test_e9_the_convention_of_the_jacobian_matters_for_the_least_eigenvalue(x64):
    """J is K × P: J Jᵀ has λ_min above 0, Jᵀ J of one example has P − K zeros."""
    params, x = random_net(0), jnp.asarray(np.random.default_rng(0).standard_normal((1, 3)))
    jacobian = dense_jacobian(mlp, params, x)
    found = theory.structure_extremes(mlp, SQUARED, params, (x, jnp.zeros((1, 4))))
    singular = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose([found.lambda_min, found.lambda_max], singular[[-1, 0]] ** 2, rtol=1e-10)
    transposed = np.linalg.eigvalsh(jacobian.T @ jacobian)
    assert np.sum(transposed > 1e-10) == 4 < len(transposed)
    assert abs(transposed[0]) < 1e-10 < found.lambda_min


def test_the_variance_between_batch_and_rest_is_least_for_halves():
    """Proposition 4.3: Var(p_m − p_{n−m}) = p(1−p) n²/(m (n−m)(n−1)), over all batches of m out of n."""
    marks = np.array([1, 0, 0, 1, 0, 0, 0])
    num, p = len(marks), marks.mean()
    variances = []
    for size in range(1, num):
        picks = [np.isin(np.arange(num), index) for index in itertools.combinations(range(num), size)]
        found = np.var([marks[pick].mean() - marks[~pick].mean() for pick in picks])
        np.testing.assert_allclose(found, p * (1 - p) * num**2 / (size * (num - size) * (num - 1)), rtol=1e-12)
        variances.append(found)
    assert np.argmin(variances) + 1 in {num // 2, num - num // 2}


def test_the_capacity_risk_falls_with_the_batch():
    """Proposition 4.4: R_cap(s, m) = R_* − E R_B* does not increase with m, for least squares on a constant."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(7)

    def least(part):
        return np.mean((part - part.mean()) ** 2) / 2

    risks = [
        least(values) - np.mean([least(values[list(i)]) for i in itertools.combinations(range(7), size)])
        for size in range(1, 8)
    ]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(risks))
    assert abs(risks[-1]) < 1e-15


def test_skip_connections_keep_the_spectrum_from_decaying(x64):
    """Proposition 5.2 in a linear chain: with skips log σ grows with depth, without it falls."""

    def chain(skip):
        def model(params, x):
            for kernel in params["layers"]:
                x = x @ kernel + (x if skip else 0)
            return x @ params["out"]

        return model

    rng = np.random.default_rng(0)

    def greatest(depth, skip):
        params = {
            "layers": [jnp.asarray(rng.standard_normal((20, 20)) * 0.5 / np.sqrt(20)) for _ in range(depth)],
            "out": jnp.asarray(rng.standard_normal((20, 3))),
        }
        x = jnp.asarray(rng.standard_normal((2, 20)))
        return np.log(np.linalg.eigvalsh(curvature.structure_matrix(chain(skip), params, x))[:, -1].mean())

    assert greatest(12, True) > greatest(2, True)
    assert greatest(12, False) < greatest(2, False)
