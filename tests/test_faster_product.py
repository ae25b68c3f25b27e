"""Convolutions by rows: equal to those of the program, chosen by their shapes, found wherever a product has them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bench_products
from benchmarks.problems import create_problem
from cljax import Batch, curvature, losses
from cljax.curvature import faster_product, row_conv
from cljax.curvature.row_conv import convolve_by_rows, pays_by_rows
from tests.oracles import eps

NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(x, kernel, stride=1, padding="SAME", dilation=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation), dimension_numbers=NUMBERS
    )


def convolutions(fn, *args):
    """All convolutions of a function's program."""
    found = faster_product.operations(jax.make_jaxpr(fn)(*args))
    return [eqn for eqn in found if eqn.primitive.name == "conv_general_dilated"]


def by_rows_alone(fn, *args):
    """Whether all of them run along one axis."""
    found = convolutions(fn, *args)
    return bool(found) and all(len(eqn.params["window_strides"]) == 1 for eqn in found)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, "SAME", 1), (1, "VALID", 1), (2, "SAME", 1), (1, 3, 2)]
)
def test_every_convolution_of_two_derivatives_is_the_same_by_rows(stride, padding, dilation):
    padding = padding if isinstance(padding, str) else [(padding, padding)] * 2
    keys, shapes = jax.random.split(jax.random.key(0), 3), ((3, 9, 8, 2), (3, 5, 2, 4), (3, 5, 2, 4))
    x, kernel, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))

    def product(x, kernel, v):
        def loss(kernel):
            return jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, kernel, stride, padding, dilation)), kernel.mT)) ** 2)

        return jax.jvp(jax.grad(loss), (kernel,), (v,))[1]

    found = convolutions(product, x, kernel, v)
    assert len(found) >= 8
    for eqn in found:
        operands = [jax.random.normal(keys[0], var.aval.shape) for var in eqn.invars]
        exact = eqn.primitive.bind(*operands, **eqn.params)
        rounding = 16 * eps(jnp.float32) * np.sqrt(operands[1].size) * np.max(np.abs(exact))
        np.testing.assert_allclose(convolve_by_rows(eqn, operands), exact, atol=rounding)


def pays(examples, image, window, channels, outputs, padding="VALID"):
    """For the results of a convolution, for the derivatives in its images, and for those in its kernel."""
    x, kernel = jnp.zeros((examples, image, image, channels)), jnp.zeros((window, window, channels, outputs))
    result = convolve(x, kernel, padding=padding)
    first = convolutions(lambda x, kernel: convolve(x, kernel, padding=padding), x, kernel)
    in_images = convolutions(jax.vjp(lambda x: convolve(x, kernel, padding=padding), x)[1], result)
    in_kernel = convolutions(jax.vjp(lambda kernel: convolve(x, kernel, padding=padding), kernel)[1], result)
    return [pays_by_rows(eqn) for eqn in first + in_images + in_kernel]


def test_it_pays_where_it_was_measured_to():
    assert pays(1024, 14, 5, 6, 16) == [False, False, True]  # second layer of a LeNet: the derivative in the kernel
    assert pays(16, 32, 3, 64, 64, "SAME") == [False, False, True]
    assert pays(16, 14, 5, 6, 16) == [False] * 3  # a small window
    assert pays(128, 16, 3, 128, 128, "SAME") == [False] * 3  # many channels
    assert pays(1024, 4, 3, 64, 64, "SAME") == [False] * 3  # a sixth would be padding
    assert pays(64, 28, 5, 1, 6, "SAME")[0]


def test_flops_grow_by_no_more_than_the_padding():
    for examples, image, window, channels, outputs in ((1024, 18, 5, 6, 16), (16, 32, 3, 64, 64), (1024, 28, 5, 1, 6)):
        x, kernel = jnp.zeros((examples, image, image, channels)), jnp.zeros((window, window, channels, outputs))
        padding = "VALID" if image == 18 else "SAME"
        result, pull_fn = jax.vjp(partial(convolve, x, padding=padding), kernel)
        found = convolutions(pull_fn, result)
        assert [pays_by_rows(eqn) for eqn in found] == [True]
        for eqn in found:
            structs = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars]
            ways = (partial(eqn.primitive.bind, **eqn.params), lambda *xs, eqn=eqn: convolve_by_rows(eqn, xs))
            counts = [jax.jit(fn).lower(*structs).compile().cost_analysis()["flops"] for fn in ways]
            assert counts[1] <= counts[0] / row_conv._LEAST_INSIDE


def network(params, x):
    x = jnp.tanh(convolve(x, params["first"]))
    x = jax.checkpoint(lambda x: jnp.tanh(convolve(x, params["second"], 2)))(x)
    return jax.jit(lambda x: x.reshape(x.shape[0], -1))(x) @ params["head"]


KEYS = jax.random.split(jax.random.key(1), 4)
PARAMS = {
    "first": 0.3 * jax.random.normal(KEYS[0], (3, 3, 1, 4)),
    "second": 0.3 * jax.random.normal(KEYS[1], (3, 3, 4, 5)),
    "head": 0.3 * jax.random.normal(KEYS[2], (80, 3)),
}
BATCH = Batch(jax.random.normal(KEYS[3], (6, 8, 8, 1)), jnp.arange(6) % 3)
LOSS = losses.fenchel_young(losses.shannon())


def operators():
    objective = losses.objective(network, LOSS)
    yield curvature.hessian(objective, PARAMS, BATCH)
    yield curvature.hessian(objective, PARAMS, BATCH, method="reverse_over_reverse")
    yield curvature.gauss_newton(network, LOSS, PARAMS, BATCH)
    yield curvature.fisher(network, LOSS, PARAMS, BATCH, kind="monte_carlo", key=jax.random.key(0))


@pytest.fixture
def always(monkeypatch):
    """Every convolution by rows, as if the eight devices were one."""
    monkeypatch.setattr(faster_product, "pays_by_rows", row_conv.can_be_by_rows)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize("index", range(4))
def test_products_by_rows_are_the_products(index, always):
    op = list(operators())[index]
    fast, v = op.linearize(), jax.tree.map(jnp.ones_like, PARAMS)
    plain = faster_product.as_it_is(fast)
    assert plain is not fast
    exact, found = jax.jit(lambda p, v: p(v))(plain, v), jax.jit(lambda p, v: p(v))(fast, v)
    assert len(convolutions(plain, v)) > 1
    assert by_rows_alone(fast, v)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(found)):
        np.testing.assert_allclose(b, a, atol=200 * eps(jnp.float32) * np.max(np.abs(a)))
    # in blocks, and differentiated
    rows = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), v)
    blocks = jax.vmap(fast)(rows)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(blocks)):
        np.testing.assert_allclose(b[1], 2 * a, atol=400 * eps(jnp.float32) * np.max(np.abs(a)))
    tangent = jax.jvp(fast, (v,), (v,))[1]
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(tangent)):
        np.testing.assert_allclose(b, a, atol=200 * eps(jnp.float32) * np.max(np.abs(a)))


def test_loops_stay_as_they_are(always):
    def looped(x):
        return jax.lax.fori_loop(0, 2, lambda _, x: convolve(x, jnp.ones((3, 3, 1, 1))), x)

    x = jnp.ones((1, 4, 4, 1))
    fast = faster_product.by_rows(jax.tree_util.Partial(looped))
    assert not convolutions(fast, x)
    np.testing.assert_array_equal(fast(x), looped(x))


@pytest.mark.parametrize("index", range(4))
def test_several_devices_have_the_program_as_it_is(index):
    product = list(operators())[index].linearize()
    assert faster_product.as_it_is(product) is product


@pytest.mark.slow
def test_flops_of_products_by_rows(monkeypatch):
    """On the problems of the targets: at most two gradients and 1.35."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for name, size in (("lenet", {"batch_size": 1024}), ("resnet18", {"batch_size": 16, "width": 64})):
        problem = create_problem(name, "full", **size)
        for row in bench_products.measure(problem, 0, operators=("hessian", "gauss_newton"), forms=("linearized",))[1:]:
            assert row["target_met"], row
        op = bench_products.create_operator("hessian", problem)
        product = jax.eval_shape(lambda op: op.linearize(), op)
        found = convolutions(lambda p, v: p(v), product, op.struct)
        assert sum(len(eqn.params["window_strides"]) == 1 for eqn in found) >= 3
