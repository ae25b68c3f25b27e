"""Structure matrices in factors on networks: exact in each dtype and sharding, few FLOPs, little memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks.problems import create_problem
from cljax import curvature, losses, theory, tree
from cljax.curvature import kernel
from cljax.training.models import create_model
from tests.oracles import eps, tolerance
from tests.test_structure_factors import example_blocks, random_inputs, random_params, whole_rows

MODELS = {
    "mlp": ((4, 4, 1), {"hidden": (8, 6)}),
    "cnn": ((8, 8, 3), {}),
    "lenet": ((8, 8, 1), {}),
    "resnet18": ((8, 8, 3), {"width": 2}),
    "vit": ((8, 8, 3), {"dim": 8, "depth": 1, "heads": 2, "patch": 4}),
}


def mlp(params, x):
    return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"]


def shapes_of(width, num_scores=10):
    return {"a": (width, width), "b": (width,), "c": (width, num_scores)}


@pytest.mark.parametrize("name", MODELS)
def test_networks(name):
    input_shape, options = MODELS[name]
    model = create_model(name, jax.random.key(0), input_shape, 5, **options)
    inputs = random_inputs(input_shape, 2, jnp.float32)
    with jax.default_matmul_precision("highest"):
        expected = example_blocks(model.apply_fn, model.params, inputs)
    found = curvature.structure_matrix(model.apply_fn, model.params, inputs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(jnp.float32, tree.size(model.params), scale))
    report = curvature.structure_report(model.apply_fn, model.params, inputs)
    kernels = [leaf for leaf in report.leaves if leaf.path.endswith("['kernel']")]
    assert kernels
    assert all(not leaf.reason for leaf in kernels)


def test_transformer():
    model = create_model("transformer", jax.random.key(0), (5,), 7, depth=2, width=6, heads=2, mlp_ratio=2)
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 7, (3, 5)))

    def last_scores(params, tokens):
        return model.apply_fn(params, tokens)[:, -1]

    with jax.default_matmul_precision("highest"):
        expected = example_blocks(last_scores, model.params, tokens)
    found = curvature.structure_matrix(last_scores, model.params, tokens)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(jnp.float32, tree.size(model.params), scale))
    leaves = curvature.structure_report(last_scores, model.params, tokens).leaves
    assert all(not leaf.reason for leaf in leaves if leaf.path.endswith("['kernel']"))
    # the embedding is read by tokens and used again as the head
    assert [bool(leaf.reason) for leaf in leaves if leaf.path.endswith("['embedding']")] == [True]


def test_flax_linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
            x = nn.ConvTranspose(3, (2, 2))(x)
            x = nn.MultiHeadDotProductAttention(num_heads=1)(x.reshape(x.shape[0], -1, 3))
            return nn.Dense(3)(nn.LayerNorm()(x).mean(1))

    net, inputs = Net(), random_inputs((6, 6, 2), 2, jnp.float32)
    params = net.init(jax.random.key(0), inputs)
    found = curvature.structure_matrix(net.apply, params, inputs)
    expected = example_blocks(net.apply, params, inputs)
    np.testing.assert_allclose(found, expected, atol=tolerance(jnp.float32, tree.size(params), np.abs(expected).max()))
    report = curvature.structure_report(net.apply, params, inputs)
    assert {leaf.path.split("'")[-2] for leaf in report.leaves if leaf.reason} == {"bias", "scale"}


@pytest.mark.parametrize("cast", ["params", "inside"])
def test_half_precision_is_summed_in_float32(cast):
    """The result is that of float32 to rounding of activations, and of float32 itself."""
    params, x = random_params(shapes_of(16, 3), jnp.float32), random_inputs((16,), 4, jnp.float32)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    if cast == "params":
        found = curvature.structure_matrix(mlp, half, x.astype(jnp.bfloat16), centered=True)
    else:

        def inside(p, x):
            return mlp(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16))

        found = curvature.structure_matrix(inside, params, x, centered=True)
        assert [leaf.form for leaf in curvature.structure_report(inside, params, x).leaves] == [
            "outer",
            "rows",
            "outer",
        ]
    assert found.dtype == jnp.float32
    expected = curvature.structure_matrix(mlp, rounded, x.astype(jnp.bfloat16).astype(jnp.float32), centered=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * eps(jnp.bfloat16) * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_common_part_of_the_rows_does_not_drown_the_rest(dtype):
    """Scores that all move by 100 h: |J 1|² is 1e4 times the rest, and eps of that would be 1 in bfloat16."""
    params = {"w": jnp.ones((4, 3), dtype), "common": jnp.ones((4,), dtype)}

    def model(p, x):
        return x @ p["w"] + 100 * (x @ p["common"])[:, None]

    x = jnp.asarray([[1.0, 2, -1, 0.5]], dtype)
    found = curvature.structure_matrix(model, params, x, centered=True)
    np.testing.assert_allclose(found[0], 6.25 * np.eye(2), atol=8 * 6.25 * eps(jnp.float32) * 100)


@pytest.mark.parametrize("centered", [False, True])
def test_chunks_give_the_same(centered):
    params, x = random_params(shapes_of(6), jnp.float32), random_inputs((6,), 7, jnp.float32)
    whole = curvature.structure_matrix(mlp, params, x, centered=centered)
    for chunk_size in (1, 3):
        found = curvature.structure_matrix(mlp, params, x, centered=centered, chunk_size=chunk_size)
        np.testing.assert_allclose(found, whole, atol=tolerance(jnp.float32, 6, np.abs(whole).max()))


@pytest.mark.parametrize("axis_type", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_shardings(axis_type):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)
    params, x = random_params(shapes_of(8, 3), jnp.float32), random_inputs((8,), 4, jnp.float32)
    expected = curvature.structure_matrix(mlp, params, x)
    specs = {"a": P(None, "model"), "b": P("model"), "c": P("model", None)}
    if axis_type == jax.sharding.AxisType.Explicit:
        specs = dict.fromkeys(specs, P())  # the model itself needs more than that under explicit axes
    place = jax.sharding.NamedSharding
    with jax.set_mesh(mesh):
        params = {name: jax.device_put(leaf, place(mesh, specs[name])) for name, leaf in params.items()}
        found = curvature.structure_matrix(mlp, params, jax.device_put(x, place(mesh, P("data"))))
    np.testing.assert_allclose(found, expected, atol=tolerance(jnp.float32, 8, np.abs(expected).max()))


def compile_matrices(apply_fn, params, inputs, chunk_size=None):
    lowered = kernel._structure_matrices.lower(jax.tree_util.Partial(apply_fn), params, inputs, False, chunk_size)
    return lowered.compile()


def flops_of(compiled):
    return compiled.cost_analysis()["flops"]


def plain_matrices(apply_fn, params, inputs):
    rows = whole_rows(apply_fn, params, inputs)
    return rows @ rows.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("name", "size", "num_examples", "in_gradients", "of_plain"),
    [
        ("mlp", "full", 8, 10 / 3 + 1.5, 0.1),
        ("lenet", "full", 4, None, 0.6),
        pytest.param("resnet18", "full", 1, None, 0.75, marks=pytest.mark.slow),
    ],
)
def test_flops(name, size, num_examples, in_gradients, of_plain):
    """K outputs cost K/3 of a gradient on the MLP, and less than whole rows elsewhere; loops would count once."""
    problem = create_problem(name, size, batch_size=num_examples)
    arguments = problem.params, problem.batch.inputs
    found = flops_of(compile_matrices(problem.apply_fn, *arguments, num_examples))
    with jax.default_matmul_precision("highest"):
        plain = jax.jit(plain_matrices, static_argnums=0).lower(problem.apply_fn, *arguments).compile()
        gradient = jax.jit(jax.grad(problem.objective)).lower(problem.params, problem.batch).compile()
    assert found <= of_plain * flops_of(plain)
    if in_gradients:
        assert found <= in_gradients * flops_of(gradient)


def test_memory_does_not_grow_with_the_parameters():
    """Four times as many parameters and twice the activations: twice the memory, as the estimate says."""
    held, estimates = [], []
    for width in (512, 1024):
        shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes_of(width), is_leaf=_is_shape)
        x = jax.ShapeDtypeStruct((16, width), jnp.float32)
        held.append(compile_matrices(mlp, shapes, x).memory_analysis().temp_size_in_bytes)
        estimates.append(16 * curvature.structure_report(mlp, shapes, x).example_bytes)
    assert held[1] <= 2.2 * held[0]
    assert held[1] < 4 * 1024 * 1024 * 4  # a single example's rows would be ten times the parameters
    for found, estimate in zip(held, estimates, strict=True):
        assert estimate / 4 <= found <= 4 * estimate


def _is_shape(x):
    return isinstance(x, tuple)


def test_gradient_energy_has_no_gradient_of_an_example_in_memory():
    params = random_params(shapes_of(512), jnp.float32)
    x, labels = random_inputs((512,), 64, jnp.float32), jnp.arange(64) % 10
    loss = losses.fenchel_young(losses.shannon())
    arguments = jax.tree_util.Partial(mlp), jax.tree_util.Partial(loss), params
    batch = theory.gradient_energy.__globals__["as_batch"]((x, labels))
    compiled = theory.gradient_energy.__globals__["_energy"].lower(*arguments, batch, None).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 512 * 512 * 4
    with jax.default_matmul_precision("highest"):
        gradients = jax.vmap(jax.grad(lambda p, x, y: loss(mlp(p, x[None]), y[None])[0]), (None, 0, 0))(
            params, x, labels
        )
    expected = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)) / 64
    assert float(theory.gradient_energy(mlp, loss, params, batch)) == pytest.approx(expected, rel=1e-5)


def test_report():
    problem = create_problem("lenet", "tiny")
    report = curvature.structure_report(problem.apply_fn, problem.params, problem.batch.inputs)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(report.leaves)
    assert lines[0].startswith(f"{report.factored_share:.1%} of the parameters in factors, 10 scores")
    assert report.factored_share > 0.95
    bias = next(leaf for leaf in report.leaves if leaf.path == "['conv_0']['bias']")
    assert (bias.form, bias.num_entries, bias.reason) == ("rows", 6, "enters add")
    one = curvature.structure_report(problem.apply_fn, problem.params, problem.batch.inputs, num_rows=1)
    assert one.example_bytes < report.example_bytes
    with pytest.raises(ValueError, match=r"apply_fn: expected scores of shape \(batch, K\), got \(2,\)"):
        curvature.structure_report(lambda w, x: (x @ w)[:, 0], jnp.ones((3, 1)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="num_rows: expected an integer of at least 1, got 0"):
        curvature.structure_report(lambda w, x: x @ w, jnp.ones((3, 1)), jnp.ones((2, 3)), num_rows=0)
