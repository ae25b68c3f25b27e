"""What is compiled, how often, and what it costs: properties of programs, not of how busy a machine is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, spectral, training, tree
from tests.oracles import eps, tolerance
from tests.problems import SHANNON, problem


class Counted:
    """A model that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, x):
        self.traces += 1
        return jnp.tanh(x @ params["w1"]) @ params["w2"]


def inputs(width=16, n=32):
    rng = np.random.default_rng(0)
    params = {
        "w1": jnp.asarray(rng.standard_normal((8, width)) / 3, jnp.float32),
        "w2": jnp.asarray(rng.standard_normal((width, 4)) / 4, jnp.float32),
    }
    return params, cljax.Batch(jnp.asarray(rng.standard_normal((n, 8)), jnp.float32), jnp.arange(n) % 4)


def scaled(params, factor):
    return jax.tree.map(lambda p: factor * p, params)


OPERATORS = {
    "hessian": lambda fn, p, b: curvature.hessian(losses.objective(fn, SHANNON), p, b),
    "microbatched": lambda fn, p, b: curvature.hessian(losses.objective(fn, SHANNON), p, b, microbatch_size=8),
    "gauss_newton": lambda fn, p, b: curvature.gauss_newton(fn, SHANNON, p, b),
    "kernel": lambda fn, p, b: curvature.tangent_kernel(fn, p, b.inputs),
}


@pytest.mark.fast
@pytest.mark.parametrize("driver", ["host", "compiled"])
@pytest.mark.parametrize("name", OPERATORS)
def test_one_trace_over_three_parameter_values(name, driver):
    fn = Counted()
    params, batch = inputs()
    counts = []
    for factor in (1.0, 1.1, 1.2):
        op = OPERATORS[name](fn, scaled(params, factor), batch)
        spectral.extreme_eigenpairs(op, jax.random.key(0), max_products=12, driver=driver)
        if name != "kernel":  # the shape of the scores comes from an abstract evaluation each time
            counts.append(fn.traces)
    assert len(set(counts)) <= 1


def test_tracker_and_structure_trace_once():
    fn = Counted()
    params, batch = inputs()
    counts = []
    for factor in (1.0, 1.1, 1.2):
        tracker = training.Tracker(fn, SHANNON, max_products=20, structure_examples=0)
        state = tracker.init(params)
        tracker.measure(state, scaled(params, factor), batch, jax.random.key(0))
        counts.append(fn.traces)
    assert counts[1] - counts[0] <= 1  # the abstract evaluation of the loss's shape
    assert counts[2] - counts[1] == counts[1] - counts[0]


@pytest.mark.parametrize("name", OPERATORS)
def test_jit_is_eager(name):
    params, batch = inputs()
    op = OPERATORS[name](Counted(), params, batch)
    v = tree.random_like(jax.random.key(1), op.struct)
    jitted = jax.jit(lambda op, v: op @ v)(op, v)
    with jax.disable_jit():
        eager = op.linearize()(v)
    for a, b in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager)):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(jnp.float32, 32 * 16, float(jnp.abs(b).max())))


def flops(fn, *args):
    analysis = jax.jit(fn).lower(*args).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def test_products_in_gradients_by_flops():
    rng = np.random.default_rng(0)
    shapes = [(784, 256), (256, 256), (256, 10)]
    params = [jnp.asarray(rng.standard_normal(s) / np.sqrt(s[0]), jnp.float32) for s in shapes]
    batch = cljax.Batch(jnp.asarray(rng.standard_normal((256, 784)), jnp.float32), jnp.arange(256) % 10)

    def fn(params, x):
        for w in params[:-1]:
            x = jnp.tanh(x @ w)
        return x @ params[-1]

    objective = losses.objective(fn, SHANNON)
    gradient = flops(jax.grad(objective), params, batch)
    linearize = jax.jit(lambda op: op.linearize())
    ratios = {}
    for name in ("hessian", "gauss_newton"):
        product = linearize(OPERATORS[name](fn, params, batch))
        ratios[name] = flops(lambda product, v: product(v), product, params) / gradient
    assert ratios["hessian"] <= 2.0
    assert ratios["gauss_newton"] <= 1.35


def test_microbatches_bound_the_memory():
    params, batch = inputs(width=64, n=4096)

    def temp(size):
        op = curvature.hessian(losses.objective(Counted(), SHANNON), params, batch, microbatch_size=size)
        return jax.jit(lambda op, v: op @ v).lower(op, params).compile().memory_analysis().temp_size_in_bytes

    # activations of 64 examples instead of 4096; what is left is the copy of the batch in microbatches
    assert temp(64) < 0.3 * temp(None)


def test_program_does_not_hold_the_batch():
    params, batch = inputs(n=4096)
    op = OPERATORS["hessian"](Counted(), params, batch)
    text = jax.jit(lambda op, v: op @ v).lower(op, params).as_text()
    assert len(text) < batch.inputs.nbytes


@pytest.mark.parametrize("method", ["auto", "forward_over_reverse", "reverse_over_reverse"])
def test_functions_without_forward_mode(method):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (double(x) * g,))  # forward mode would have to enter ``double``
    op = curvature.hessian(lambda w: jnp.sum(square(w) * w), jnp.array([1.0, 2.0]), method=method)
    if method == "forward_over_reverse":
        with pytest.raises(TypeError, match="custom_vjp"):
            op @ jnp.ones(2)
        return
    assert op.method_used == "reverse_over_reverse"
    np.testing.assert_allclose(op @ jnp.ones(2), [6.0, 12.0], rtol=8 * eps(jnp.float32))


def test_method_used_elsewhere():
    case = problem("conv", jnp.float32)
    assert curvature.hessian(case.objective, case.params, case.batch).method_used == "forward_over_reverse"


@pytest.mark.fast
def test_operators_with_the_same_fields_never_share_a_program():
    """A jit cache finds programs by hash and equality of tree structures; equal ones of two classes would mix."""
    case = problem("softmax-mlp", jnp.float32)
    jacobian, kernel = (
        jax.tree.structure(make(case.apply_fn, case.params, case.batch.inputs))
        for make in (curvature.jacobian, curvature.tangent_kernel)
    )
    assert jacobian != kernel
    again = jax.tree.structure(curvature.jacobian(case.apply_fn, scaled(case.params, 2.0), case.batch.inputs))
    assert again == jacobian
    assert hash(again) == hash(jacobian)
