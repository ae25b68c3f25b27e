"""Solvers refuse what they cannot solve, sums and products refuse what does not fit, in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, spectral, training

KEY = jax.random.key(0)
SOLVERS = [
    lambda op: spectral.extreme_eigenpairs(op, KEY),
    lambda op: spectral.spectral_density(op, KEY),
    lambda op: spectral.lanczos(op, KEY, 1),
]


def diagonal(*entries: float) -> curvature.FunctionOperator:
    d = jnp.array(entries)
    return curvature.FunctionOperator(lambda v, d: d * v, d, d)


def jacobian() -> curvature.LinearOperator:
    return curvature.jacobian(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.ones((3, 2)))


@pytest.mark.parametrize("solve", SOLVERS)
def test_solvers_take_symmetric_operators_only(solve):
    with pytest.raises(TypeError, match=r"^op: expected a cljax\.curvature\.LinearOperator, got ArrayImpl"):
        solve(jnp.eye(3))
    for op in (jacobian(), jacobian().T, jacobian().scale(2.0), jacobian() + jacobian()):
        with pytest.raises(ValueError, match="^op: expected a symmetric operator"):
            solve(op)


def test_sums_scales_and_functions_check_shapes():
    square = curvature.FunctionOperator(lambda v: v, jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"^other @ v: expected shape \(3, 1\), got \(2, 1\)"):
        jacobian() + square
    with pytest.raises(ValueError, match=r"^factor: expected a scalar, got shape \(2,\)"):
        square.scale(jnp.ones(2))
    wrong = curvature.FunctionOperator(lambda v: v[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match=r"^fn\(v, \*args\): expected shape \(2,\), got \(1,\)"):
        wrong @ jnp.ones(2)
    assert (diagonal(1.0) + diagonal(2.0)).symmetric


@pytest.mark.parametrize("tol", [0.0, -1e-3, 1.0, float("nan")])
def test_tolerances_are_between_0_and_1(tol):
    with pytest.raises(ValueError, match="^tol: expected a relative tolerance between 0 and 1"):
        spectral.extreme_eigenpairs(diagonal(1.0, 2.0), KEY, tol=tol)


def test_starts_are_of_the_same_space():
    other = spectral.extreme_eigenpairs(diagonal(1.0, 2.0, 3.0), KEY)
    with pytest.raises(ValueError, match=r"^start\.vectors: expected shape \(2,\), got \(3,\)"):
        spectral.extreme_eigenpairs(diagonal(1.0, 2.0), KEY, start=other)
    with pytest.raises(TypeError, match="^start: expected Eigenpairs"):
        spectral.extreme_eigenpairs(diagonal(1.0, 2.0), KEY, start=jnp.ones(2))


@pytest.mark.parametrize(
    "options",
    [
        {"structure_examples": -1},
        {"tol": 2.0},
        {"driver": "fast"},
        {"microbatch_size": 0},
        {"num_top": -1, "num_bottom": 3},
        {"max_products": 0},
        {"objective_fn": jnp.sum},
        {"loss": None},
    ],
)
def test_trackers_check_their_numbers_when_made(options):
    made = {"apply_fn": jnp.dot, "loss": losses.fenchel_young(losses.squared())} | options
    with pytest.raises(ValueError, match=f"^({next(iter(options))}|Tracker): expected"):
        training.Tracker(**made)


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 10.5}, {"learning_rate": float("inf")}, {"weight_decay": float("inf")}, {"seed": 2**64}],
)
def test_configurations_check_their_numbers_when_made(options):
    with pytest.raises((ValueError, TypeError), match=f"^{next(iter(options))}: expected"):
        training.RunConfig(**options)


def test_weights_that_may_cancel_in_a_microbatch_are_refused():
    batch = cljax.Batch(jnp.ones((4, 2)), jnp.ones((4, 1)), jnp.array([1.0, -1.0, 1.0, 1.0]))
    loss = losses.fenchel_young(losses.squared())
    with pytest.raises(ValueError, match=r"^batch\.weight: expected no negative weight"):
        curvature.gauss_newton(lambda w, x: x @ w, loss, jnp.zeros((2, 1)), batch, microbatch_size=2)


@jax.custom_vjp
def cubed(x):
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, ct: (3 * x**2 * ct,))


def test_models_without_forward_mode_have_jacobians_and_gauss_newton_matrices():
    # oracle: the same model without the custom rule
    inputs = jax.random.normal(KEY, (5, 3))
    params = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2)}
    batch = cljax.Batch(inputs, jnp.array([0, 1, 0, 1, 1]))
    loss = losses.fenchel_young(losses.shannon())

    def with_rule(p, x):
        return cubed(x @ p["w"])

    def without(p, x):
        return (x @ p["w"]) ** 3

    for make in (
        lambda f: curvature.jacobian(f, params, inputs),
        lambda f: curvature.jacobian(f, params, inputs).T,
        lambda f: curvature.tangent_kernel(f, params, inputs),
        lambda f: curvature.gauss_newton(f, loss, params, batch),
        lambda f: curvature.gauss_newton(f, loss, params, batch, microbatch_size=2),
    ):
        expected = np.asarray(curvature.to_dense(make(without)))
        found = np.asarray(curvature.to_dense(make(with_rule)))
        np.testing.assert_allclose(found, expected, atol=64 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_arrays_without_entries_are_told():
    """An operator on a space of dimension 0 has no eigenvalue, and no probe."""
    shape = jnp.zeros((0, 4))
    with pytest.raises(ValueError, match="params: expected at least one number, got arrays without entries"):
        curvature.hessian(lambda params: jnp.sum(params["w"]), {"w": shape})
    with pytest.raises(ValueError, match="struct: expected at least one number"):
        curvature.FunctionOperator(lambda v: v, shape)
    assert curvature.hessian(lambda p: p[0] ** 2 + jnp.sum(p[1]), (jnp.ones(()), shape)).struct[1].shape == (0, 4)
