"""Hessians by central differences of gradients: when they are chosen, how good they are, and whether they know it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

import cljax
from cljax import curvature, losses, spectral, tree
from tests.oracles import dense_hessian, eps, flat
from tests.problems import NAMES, SHANNON, problem


def custom(backward):
    """x³ with a backward pass of its own."""

    @jax.custom_vjp
    def cubed(x):
        return x**3

    cubed.defvjp(lambda x: (x**3, x), lambda x, ct: (backward(x) * ct,))
    return cubed


def on_the_host(x):
    return jax.pure_callback(
        lambda a: 3 * np.asarray(a) ** 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    )


without_rule = Primitive("slope_without_rule")
without_rule.def_abstract_eval(lambda x: x)
mlir.register_lowering(without_rule, mlir.lower_fun(lambda x: 3 * x**2, multiple_results=False))


def by_reverse_only(x):
    double = jax.custom_vjp(lambda y: 3 * y**2)
    double.defvjp(lambda y: (3 * y**2, y), lambda y, ct: (6 * y * ct,))
    return double(x)


BACKWARD = {
    "callback": (on_the_host, "finite_difference"),
    "primitive": (without_rule.bind, "finite_difference"),
    "loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + x**2, jnp.zeros_like(x)), "reverse_over_reverse"),
    "custom": (by_reverse_only, "reverse_over_reverse"),
    "plain": (lambda x: 3 * x**2, "forward_over_reverse"),
}


def model(cubed):
    return lambda params, x: cubed(jnp.tanh(x @ params["w1"])) @ params["w2"]


@pytest.mark.parametrize(("name", "microbatch_size"), [("callback", None), ("primitive", 3)])
def test_auto_falls_to_differences_where_the_backward_pass_has_no_derivative(x64, name, microbatch_size):
    # oracle: the dense Hessian of the same model without the custom rule
    case = problem("weighted")
    params = {k: case.params[k] for k in ("w1", "w2")}
    plain = losses.objective(model(lambda x: x**3), SHANNON)
    objective = losses.objective(model(custom(BACKWARD[name][0])), SHANNON)
    op = curvature.hessian(objective, params, case.batch, microbatch_size=microbatch_size)
    assert op.method_used == "finite_difference"
    v = tree.random_like(jax.random.key(0), params)
    expected = dense_hessian(plain, params, case.batch) @ flat(v)
    error = np.linalg.norm(flat(op @ v) - expected) / np.linalg.norm(expected)
    assert error <= float(op.error_estimate(v)) <= 1e3 * eps(jnp.float64) ** (2 / 3)


@pytest.mark.parametrize("name", BACKWARD)
def test_the_first_method_that_exists_is_used(x64, name):
    backward, expected = BACKWARD[name]
    op = curvature.hessian(lambda w: jnp.sum(custom(backward)(w) * w), jnp.array([1.0, -2.0]))
    if name == "loop":  # forward mode of a custom_vjp function's backward pass exists: it is plain code
        expected = "forward_over_reverse"
    assert op.method_used == expected
    np.testing.assert_allclose(op @ jnp.ones(2), [12.0, 48.0], rtol=4 * float(op.error_estimate(jnp.ones(2))))


FEW = [("softmax-mlp", jnp.float32), ("weighted", jnp.float64), ("one-parameter", jnp.float32)]
ALL = [pytest.param(name, dtype, marks=pytest.mark.slow) for name in NAMES for dtype in (jnp.float32, jnp.float64)]


@pytest.mark.parametrize(("name", "dtype"), FEW + ALL)
def test_the_error_is_estimated_from_above_and_not_far_above(x64, name, dtype):
    case = problem(name, dtype)
    op = curvature.hessian(case.objective, case.params, case.batch, method="finite_difference")
    v = tree.random_like(jax.random.key(1), case.params)
    exact = curvature.hessian(problem(name).objective, problem(name).params, problem(name).batch)
    expected = flat(exact @ jax.tree.map(lambda x: x.astype(jnp.float64), v))
    error = np.linalg.norm(flat(op @ v) - expected) / np.linalg.norm(expected)
    estimate = float(op.error_estimate(v))
    # twice, as rounding errors of the two steps may point the same way; the noise floor is eps^(2/3)
    assert error <= 2 * estimate + eps(dtype) ** (2 / 3)
    assert estimate <= 1e3 * eps(dtype) ** (2 / 3)


def coarse(params, x):
    hidden = jnp.tanh((x.astype(jnp.bfloat16) @ params["w1"].astype(jnp.bfloat16)).astype(jnp.float32))
    return hidden @ params["w2"]


def fine(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def test_a_noisy_gradient_lengthens_the_step():
    # a model that rounds inside to 8 bits; the oracle is the same model without the rounding
    rng = np.random.default_rng(0)
    params = {"w1": jnp.asarray(rng.standard_normal((16, 32)), jnp.float32) / 4}
    params["w2"] = jnp.asarray(rng.standard_normal((32, 3)), jnp.float32) / 6
    batch = cljax.Batch(jnp.asarray(rng.standard_normal((64, 16)), jnp.float32), jnp.arange(64) % 3)
    op = curvature.hessian(losses.objective(coarse, SHANNON), params, batch, method="finite_difference")
    smooth = curvature.hessian(losses.objective(fine, SHANNON), params, batch, method="finite_difference")
    exact = curvature.hessian(losses.objective(fine, SHANNON), params, batch)
    v = tree.random_like(jax.random.key(2), params)
    expected = flat(exact @ v)

    products = [jax.jit(lambda op: op.linearize())(x) for x in (op, smooth)]
    error = np.linalg.norm(flat(products[0](v)) - expected) / np.linalg.norm(expected)
    # eps^(1/3) of float32 would divide a noise of 2^-9 by 5e-3
    assert error < 0.15
    assert 0.3 * error < float(op.error_estimate(v)) < 1
    lengths = [float(product.args[1]) for product in products]
    assert lengths[0] > 2 * lengths[1]


def test_nothing_to_measure_is_not_an_error():
    flat_op = curvature.hessian(lambda w: jnp.sum(w), jnp.zeros(3), method="finite_difference")
    np.testing.assert_array_equal(flat_op @ jnp.ones(3), np.zeros(3))
    assert float(flat_op.error_estimate(jnp.ones(3))) == 0
    square = curvature.hessian(lambda w: jnp.sum(w**2), jnp.zeros(3), method="finite_difference")
    np.testing.assert_allclose(square @ jnp.ones(3), 2 * np.ones(3), rtol=8 * eps(jnp.float32))
    np.testing.assert_array_equal(square @ jnp.zeros(3), np.zeros(3))
    broken = curvature.hessian(lambda w: jnp.sum(w**2) * jnp.nan, jnp.ones(3), method="finite_difference")
    assert np.isnan(broken @ jnp.ones(3)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_cold_search_ends_at_the_noise_of_the_products(dtype):
    # differences in float32 are off by about 1e-4 in norm, products in bfloat16 by its eps, and more steps do not help
    cubed = custom(without_rule.bind) if dtype == jnp.float32 else lambda x: x**3
    params = tree.random_like(jax.random.key(0), {"w1": jnp.zeros((8, 10)), "w2": jnp.zeros((10, 3))})
    params = jax.tree.map(lambda x: (0.3 * x).astype(dtype), params)
    inputs = jax.random.normal(jax.random.key(1), (64, 8))

    def energy(cubed):
        return lambda params, x: jnp.mean((model(cubed)(params, x.astype(dtype)) - 1) ** 2, dtype=jnp.float32)

    op = curvature.hessian(energy(cubed), params, inputs)
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(2), tol=0.05)
    exact = jnp.linalg.eigvalsh(dense_hessian(energy(lambda x: x**3), tree.to_work(params), inputs))[-1]
    assert pairs.status[0] == spectral.Status.CONVERGED
    assert pairs.num_products < 40
    vector = tree.cast_like(jax.tree.map(lambda v: v[0], pairs.vectors), params)
    np.testing.assert_allclose(pairs.values[0], exact, rtol=float(op.error_estimate(vector)))


def test_errors_of_the_objective_are_not_hidden():
    op = curvature.hessian(lambda w: w @ jnp.ones(7), jnp.ones(3))
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        op @ jnp.ones(3)


def test_one_trace_over_three_parameter_values():
    traces = []

    def objective(w, x):
        traces.append(1)
        return jnp.sum(jnp.sin(w * x))

    counts = []
    for factor in (1.0, 2.0, 3.0):
        op = curvature.hessian(objective, factor * jnp.ones(4), jnp.ones(4), method="finite_difference")
        op @ jnp.ones(4)
        counts.append(len(traces))
    assert len(set(counts)) == 1


def test_products_cost_two_gradients_and_hold_no_activations():
    case = problem("conv", jnp.float32)
    op = curvature.hessian(case.objective, case.params, case.batch, method="finite_difference")

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]

    product = jax.jit(lambda op: op.linearize())(op)
    gradient = flops(jax.grad(case.objective), case.params, case.batch)
    # beyond the two gradients: a few operations for each parameter and at most one norm
    assert flops(lambda p, v: p(v), product, case.params) <= 2 * gradient + 16 * tree.size(case.params)
    held = sum(x.size for x in jax.tree.leaves(product))
    assert held == sum(x.size for x in jax.tree.leaves(op)) + 1


def test_a_function_that_is_mended_is_looked_at_again():
    def objective(p):
        return helper(p)

    params = jnp.ones(3)
    assert curvature.hessian(objective, params).method_used == "finite_difference"  # its error comes with the product

    def helper(p):
        return jnp.sum(p**4)

    assert curvature.hessian(objective, params).method_used == "forward_over_reverse"
