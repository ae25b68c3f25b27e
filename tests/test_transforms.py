"""Blocks, chains, preconditioned and shifted operators against dense float64 matrices; algebra; derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import curvature, losses, spectral, tree
from tests.oracles import dense_gauss_newton, dense_hessian, dense_jacobian, flat, tolerance
from tests.problems import NAMES, SHANNON, problem

pytestmark = pytest.mark.usefixtures("x64")


def close(found, expected):
    expected = np.asarray(expected)
    bound = tolerance(jnp.float64, expected.size, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@functools.cache
def make(name):
    case = problem(name)
    op = curvature.hessian(case.objective, case.params, case.batch)
    return case, op, dense_hessian(case.objective, case.params, case.batch)


def leaf_of_each_entry(params):
    leaves = jax.tree.leaves(params)
    return np.concatenate([np.full(leaf.size, index) for index, leaf in enumerate(leaves)])


@pytest.mark.parametrize(
    ("name", "predicate", "kept"),
    [
        ("softmax-mlp", lambda path: path.startswith("w"), [1, 2]),
        ("nested-scalar", lambda path: path == "layers/0/w", [2]),
        ("one-parameter", lambda path: not path, [0]),
        ("equinox", lambda path: path.endswith("weight"), [0, 2]),
    ],
)
def test_restricted_operators_are_principal_blocks(name, predicate, kept):
    case, op, dense = make(name)
    block = curvature.restrict(op, predicate)
    inside = np.isin(leaf_of_each_entry(case.params), kept)
    close(curvature.to_dense(block), dense[np.ix_(inside, inside)])
    assert [x.shape for x in jax.tree.leaves(block.struct)] == [jax.tree.leaves(case.params)[i].shape for i in kept]


def test_solvers_take_blocks():
    case, op, dense = make("softmax-mlp")
    block = curvature.restrict(op, lambda path: path == "w2")
    inside = leaf_of_each_entry(case.params) == 2
    top = np.linalg.eigvalsh(dense[np.ix_(inside, inside)])[-1]
    pairs = spectral.extreme_eigenpairs(block, jax.random.key(0), tol=1e-8)
    np.testing.assert_allclose(pairs.values[-1], top, rtol=1e-8)
    assert pairs.vectors["w1"] is None


def test_blocks_need_a_leaf_and_a_square_operator():
    case, op, _ = make("softmax-mlp")
    with pytest.raises(ValueError, match="^predicate: expected it to keep at least one leaf, got none of 'b1', 'w1'"):
        curvature.restrict(op, lambda path: path == "w3")
    with pytest.raises(ValueError, match="^op @ v: expected the pytree structure"):
        curvature.restrict(curvature.jacobian(case.apply_fn, case.params, case.batch.inputs), bool)


def test_chains_are_products_of_matrices():
    case, op, dense = make("softmax-mlp")
    jacobian = curvature.jacobian(case.apply_fn, case.params, case.batch.inputs)
    j = dense_jacobian(case.apply_fn, case.params, case.batch.inputs)
    normal = curvature.compose(jacobian.T, jacobian)
    assert normal.symmetric
    close(curvature.to_dense(normal), j.T @ j)
    sandwich = curvature.compose(jacobian, op, jacobian.T)
    assert sandwich.symmetric
    close(curvature.to_dense(sandwich), j @ dense @ j.T)
    chain = curvature.compose(jacobian, op)
    assert not chain.symmetric
    close(curvature.to_dense(chain), j @ dense)
    close(curvature.to_dense(chain.T), dense @ j.T)
    assert curvature.compose(op, normal, symmetric=True).symmetric
    with pytest.raises(ValueError, match=r"^ops\[1\] @ v: expected"):
        curvature.compose(op, jacobian)
    with pytest.raises(ValueError, match="^ops: expected at least 2 operators, got 1"):
        curvature.compose(op)


DIAGONALS = {
    "scalar": lambda params: 2.5,
    "scalars": lambda params: jax.tree.map(lambda x: jnp.asarray(1.5 + x.ndim), params),
    "full": lambda params: jax.tree.map(lambda x: 0.1 + x**2, params),
    "rows": lambda params: jax.tree.map(lambda x: 1 + jnp.abs(x[..., :1]) if x.ndim else 1 + x**2, params),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("softmax-mlp", kind) for kind in DIAGONALS]
    + [pytest.param(name, "full", marks=pytest.mark.slow) for name in NAMES],
)
def test_preconditioned_and_shifted_operators_are_the_dense_ones(name, kind):
    case, op, dense = make(name)
    diagonal = DIAGONALS[kind](case.params)
    p = flat(jax.tree.map(jnp.broadcast_to, curvature.shift(op, diagonal).diagonal, shapes(case.params)))
    close(curvature.to_dense(curvature.precondition(op, diagonal)), dense / np.sqrt(np.outer(p, p)))
    close(curvature.to_dense(curvature.shift(op, diagonal)), dense + np.diag(p))


def shapes(params):
    return jax.tree.map(lambda x: Shape(x.shape), params)


class Shape(tuple):
    """A shape that is a leaf."""


def test_eigenvectors_of_the_preconditioned_operator_go_back_to_the_parameters():
    case, op, dense = make("softmax-mlp")
    diagonal = DIAGONALS["full"](case.params)
    pre = curvature.precondition(op, diagonal)
    pairs = spectral.extreme_eigenpairs(pre, jax.random.key(0), tol=1e-9)
    direction = flat(pre.to_params(jax.tree.map(lambda x: x[-1], pairs.vectors)))
    value = float(pairs.values[-1])
    np.testing.assert_allclose(dense @ direction / flat(diagonal), value * direction, atol=1e-7 * abs(value))


def test_diagonals_are_checked():
    case, op, _ = make("softmax-mlp")
    with pytest.raises(ValueError, match=r"^diagonal\['b1'\]: expected positive entries, got 0\.0"):
        curvature.precondition(op, jax.tree.map(jnp.zeros_like, case.params))
    with pytest.raises(ValueError, match="^diagonal: expected a scalar or the pytree structure"):
        curvature.shift(op, {"w1": 1.0})
    with pytest.raises(ValueError, match=r"^diagonal\['b1'\]: expected a scalar or a shape that broadcasts to \(5,\)"):
        curvature.shift(op, {**case.params, "b1": jnp.ones(4)})


def test_added_decay_is_a_shift():
    # oracle: the Jacobian of the update that Optax makes of the gradient
    case, op, _ = make("weighted")
    decay = optax.add_decayed_weights(0.3, mask={"w1": True, "w2": True, "b1": False})

    def gradient(params):
        updates = jax.grad(case.objective)(params, case.batch)
        return decay.update(updates, decay.init(params), params)[0]

    v = tree.random_like(jax.random.key(0), case.params)
    expected = jax.jvp(gradient, (case.params,), (v,))[1]
    close(flat(curvature.shift(op, {"w1": 0.3, "w2": 0.3, "b1": 0.0}) @ v), flat(expected))


def test_differences_negatives_and_multiples():
    case, op, dense = make("softmax-mlp")
    gauss = curvature.gauss_newton(case.apply_fn, case.loss, case.params, case.batch)
    residual = op - gauss
    close(curvature.to_dense(residual), dense - dense_gauss_newton(case.apply_fn, case.loss, case.params, case.batch))
    for product in (2.5 * op, np.float64(2.5) * op, jnp.asarray(2.5) * op):
        assert isinstance(product, curvature.LinearOperator)
        close(curvature.to_dense(product), 2.5 * dense)
    close(curvature.to_dense(-op), -dense)
    with pytest.raises(TypeError):
        op - 1.0
    with pytest.raises(TypeError):
        op * op


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_products_can_be_differentiated_in_the_parameters(kind):
    """The derivative of vᵀ A(θ) v against that of the dense matrix."""
    case = problem("softmax-mlp")
    v = tree.random_like(jax.random.key(3), case.params)
    x, unravel = jax.flatten_util.ravel_pytree(case.params)

    def found(params):
        if kind == "hessian":
            op = curvature.hessian(case.objective, params, case.batch)
        else:
            op = curvature.gauss_newton(case.apply_fn, case.loss, params, case.batch)
        return tree.vdot(v, op.mv(v))

    def expected(x):
        direction = jax.flatten_util.ravel_pytree(v)[0]
        if kind == "hessian":
            return direction @ jax.hessian(lambda y: case.objective(unravel(y), case.batch))(x) @ direction
        jacobian = jax.jacrev(lambda y: case.apply_fn(unravel(y), case.batch.inputs))(x)
        scores = case.apply_fn(unravel(x), case.batch.inputs)
        p, moved = jax.nn.softmax(scores), jacobian @ direction
        return jnp.mean(jnp.sum(p * moved**2, 1) - jnp.sum(p * moved, 1) ** 2)

    close(flat(jax.grad(found)(case.params)), np.asarray(jax.grad(expected)(x)))


def test_one_trace_over_three_parameter_values():
    traces = []

    def apply_fn(params, x):
        traces.append(1)
        return jnp.tanh(x @ params["w1"]) @ params["w2"]

    case, counts = problem("softmax-mlp"), []
    for factor in (1.0, 1.1, 1.2):
        params = {k: factor * case.params[k] for k in ("w1", "w2")}
        op = curvature.hessian(losses.objective(apply_fn, SHANNON), params, case.batch)
        op = curvature.shift(curvature.precondition(op, jax.tree.map(lambda x: 1 + x**2, params)), factor)
        op = curvature.restrict(op - 0.1 * op, lambda path: path == "w1")
        curvature.compose(op, op) @ {"w1": params["w1"], "w2": None}
        counts.append(len(traces))
    assert len(set(counts)) == 1
