"""The decoder-only transformer: causality, sizes in closed form, scores and curvature against independent programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import cljax
from cljax import curvature, losses
from cljax.training.models import SIZES, abstract_model, create_model, num_params
from cljax.training.models.blocks import TransformerBlock
from cljax.training.models.create import _Keys
from tests.oracles import dense_gauss_newton, dense_hessian, tolerance

SHANNON = losses.fenchel_young(losses.shannon())
CONTEXT, VOCABULARY = 5, 7
SMALL = {"depth": 2, "width": 6, "heads": 2, "mlp_ratio": 2}


def build(dtype=jnp.float32, **options):
    """A small model with parameters of order 1: biases and scales count too."""
    model = create_model("transformer", jax.random.key(0), (CONTEXT,), VOCABULARY, **(SMALL | options))
    leaves, treedef = jax.tree.flatten(model.params)
    rng = np.random.default_rng(1)
    params = treedef.unflatten([jnp.asarray(x + 0.5 * rng.standard_normal(x.shape), dtype) for x in leaves])
    return model.apply_fn, params


def tokens_of(batch=3, seed=2):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, CONTEXT)).astype(np.int32)


def normalized(xp, x, p):
    centered = x - x.mean(-1, keepdims=True)
    return centered / xp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def reference(params, tokens, xp=np, depth=SMALL["depth"], heads=SMALL["heads"]):
    """GPT-2 as in the paper's code, one sequence, one head and one place at a time."""
    rows = []
    for sequence in tokens:
        x = params["embedding"][sequence] + params["positions"]
        for i in range(depth):
            block = params[f"block_{i}"]
            y = normalized(xp, x, block["norm_0"])
            q, k, v = (xp.split(dense(y, block["attention"][n]), heads, -1) for n in ("query", "key", "value"))
            places = []
            for t in range(len(sequence)):
                parts = []
                for h in range(heads):
                    logits = k[h][: t + 1] @ q[h][t] / np.sqrt(q[h].shape[-1])
                    e = xp.exp(logits - logits.max())
                    parts.append((e / e.sum()) @ v[h][: t + 1])
                places.append(xp.concatenate(parts))
            x = x + dense(xp.stack(places), block["attention"]["out"])
            y = dense(normalized(xp, x, block["norm_1"]), block["mlp_0"])
            y = 0.5 * y * (1 + xp.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
            x = x + dense(y, block["mlp_1"])
        x = normalized(xp, x, params["norm"])
        rows.append(x @ (params["head"]["kernel"] if "head" in params else params["embedding"].T))
    return xp.stack(rows)


@functools.partial(jax.jit, static_argnums=0)
def apply(apply_fn, params, x):
    return apply_fn(params, x)


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"remat": True}], ids=str)
def test_scores_are_those_of_an_independent_program(options, x64):
    apply_fn, params = build(jnp.float64, **options)
    tokens = tokens_of()
    scores = apply(apply_fn, params, tokens)
    assert scores.dtype == jnp.float64
    expected = reference(jax.tree.map(np.asarray, params), tokens)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance(jnp.float64, 1000, np.abs(expected).max()))


def test_later_tokens_do_not_change_earlier_scores():
    apply_fn, params = build()
    tokens = tokens_of(1)
    scores = apply(apply_fn, params, tokens)
    for place in range(CONTEXT):
        changed = tokens.copy()
        changed[0, place] = (changed[0, place] + 1) % VOCABULARY
        other = apply(apply_fn, params, changed)
        np.testing.assert_array_equal(other[0, :place], scores[0, :place])
        assert np.abs(other[0, place:] - scores[0, place:]).max(-1).min() > 1e-3


def test_half_precision_stays_half_precision():
    apply_fn, params = build(jnp.bfloat16)
    assert jax.eval_shape(apply_fn, params, tokens_of()).dtype == jnp.bfloat16


def closed_form(vocabulary, context, depth, width, ratio=4, **_):
    block = (4 + 2 * ratio) * width**2 + (9 + ratio) * width
    return vocabulary * width + context * width + depth * block + 2 * width


def test_sizes_in_closed_form():
    counts = {}
    for name, options in SIZES.items():
        context = 1024 if name == "124M" else 2048
        counts[name] = num_params(abstract_model("transformer", (context,), 50257, **options).params)
        assert counts[name] == closed_form(50257, context, **options)
    assert counts == {"124M": 124_439_808, "1.3B": 1_315_723_264, "7B": 6_658_404_352, "70B": 69_694_005_248}
    untied = abstract_model("transformer", (3,), 11, depth=1, width=6, heads=3, mlp_ratio=2, tied=False)
    assert num_params(untied.params) == closed_form(11, 3, 1, 6, 2) + 11 * 6


def test_abstract_parameters_are_the_shapes_of_real_ones():
    args = (CONTEXT,), VOCABULARY
    real = create_model("transformer", jax.random.key(0), *args, **SMALL, tied=False)
    abstract = abstract_model("transformer", *args, **SMALL, tied=False)
    assert real.apply_fn == abstract.apply_fn
    assert jax.tree.structure(real.params) == jax.tree.structure(abstract.params)
    for a, b in zip(*map(jax.tree.leaves, (real.params, abstract.params)), strict=True):
        assert isinstance(b, jax.ShapeDtypeStruct)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(real.params)
    ]
    for path in ("embedding", "positions", "block_1/attention/query/kernel", "block_0/mlp_0/bias", "head/kernel"):
        assert path in paths


def test_parameters_are_made_where_they_belong():
    apply_fn = abstract_model("transformer", (CONTEXT,), 8, **SMALL).apply_fn
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    places = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec("model", *[None] * (x.ndim - 1))),
        jax.eval_shape(apply_fn.init, jax.random.key(0)) | {"positions": jax.ShapeDtypeStruct((), jnp.float32)},
    )
    places["positions"] = NamedSharding(mesh, PartitionSpec())
    params = jax.jit(apply_fn.init, out_shardings=places)(jax.random.key(0))
    whole = create_model("transformer", jax.random.key(0), (CONTEXT,), 8, **SMALL).params
    assert params["embedding"].addressable_shards[0].data.shape == (4, 6)
    for a, b in zip(*map(jax.tree.leaves, (params, whole)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keys_are_those_of_nnx():
    keys, rngs = _Keys(jax.random.key(3)), nnx.Rngs(jax.random.key(3))
    for _ in range(3):
        assert jnp.array_equal(jax.random.key_data(keys.params()), jax.random.key_data(rngs.params()))


def test_equal_blocks_are_traced_once(monkeypatch):
    traced = []
    plain = TransformerBlock.__call__
    monkeypatch.setattr(TransformerBlock, "__call__", lambda self, x: traced.append(1) or plain(self, x))
    model = abstract_model("transformer", (CONTEXT,), VOCABULARY, depth=6, width=14, heads=7)
    jax.eval_shape(jax.grad(lambda p, x: jnp.sum(model.apply_fn(p, x))), model.params, tokens_of())
    assert len(traced) == 1


@pytest.fixture(scope="module")
def masked():
    """A tiny model, and a batch with targets that are masked, one sequence wholly; all in float64."""
    with jax.enable_x64(True):
        model = create_model("transformer", jax.random.key(0), (3,), 4, depth=1, width=4, heads=2, mlp_ratio=1)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda x: jnp.asarray(x + 0.5 * rng.standard_normal(x.shape)), model.params)
        inputs = rng.integers(0, 4, (2, 3)).astype(np.int32)
        targets = np.array([[1, -100, 3], [-100, -100, -100]], np.int32)
        weight = np.array([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])
        yield model.apply_fn, params, cljax.Batch(*map(jnp.asarray, (inputs, targets, weight)))


def masked_loss(params, inputs, targets, weight):
    """Σ w ℓ / Σ w over the tokens that count, from the independent program."""
    counted = weight.any(1)
    scores = reference(params, inputs[counted], jnp, depth=1)
    total = 0.0
    for index in np.argwhere(weight[counted]):
        row = scores[*index]
        total += weight[counted][*index] * (jax.nn.logsumexp(row) - row[targets[counted][*index]])
    return total / np.sum(weight)


def test_hessian_is_the_dense_one_of_an_independent_program(masked, x64):
    apply_fn, params, batch = masked
    arrays = [np.asarray(x) for x in (batch.inputs, batch.targets, batch.weight)]
    op = curvature.hessian(losses.objective(apply_fn, SHANNON), params, batch)
    with jax.numpy_rank_promotion("allow"):
        expected = dense_hessian(jax.jit(lambda p: masked_loss(p, *arrays)), params)
    atol = tolerance(jnp.float64, expected.size, np.abs(expected).max())
    np.testing.assert_allclose(curvature.to_dense(op), expected, rtol=0, atol=atol)


def test_gauss_newton_is_the_dense_one(masked, x64):
    apply_fn, params, batch = masked
    op = curvature.gauss_newton(apply_fn, SHANNON, params, batch)
    hidden = cljax.Batch(batch.inputs, jnp.where(batch.weight == 0, 0, batch.targets), batch.weight)
    expected = dense_gauss_newton(jax.jit(apply_fn), SHANNON, params, hidden)
    atol = tolerance(jnp.float64, expected.size, np.abs(expected).max())
    np.testing.assert_allclose(curvature.to_dense(op), expected, rtol=0, atol=atol)


def test_halves_make_a_chunked_objective(masked, x64):
    apply_fn, params, batch = masked
    whole = losses.objective(apply_fn, SHANNON)
    parts = [apply_fn.part(name) for name in ("features", "scores")]
    chunked = losses.chunked_objective(*parts, SHANNON, chunk_size=4)
    ops = (
        curvature.gauss_newton(apply_fn, SHANNON, params, batch),
        curvature.chunked_gauss_newton(chunked, params, batch),
    )
    pairs = [(whole(params, batch), chunked(params, batch)), (ops[0] @ params, ops[1] @ params)]
    for a, b in zip(*map(jax.tree.leaves, zip(*pairs, strict=True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert apply_fn.part("scores") == parts[1] != apply_fn
    with pytest.raises(ValueError, match="method: expected a method of Transformer, got 'head'"):
        apply_fn.part("head")


def test_rematerialization_stores_one_tensor_a_block():
    """What reverse mode stores; XLA's compiler for CPU undoes it, so compiled memory says nothing here."""
    stored = []
    for depth, remat in ((4, False), (4, True), (6, True)):
        model = abstract_model("transformer", (64,), 65, depth=depth, width=32, heads=2, remat=remat)
        tokens = jax.ShapeDtypeStruct((8, 64), jnp.int32)
        pull_fn = jax.eval_shape(lambda p, x, f=model.apply_fn: jax.vjp(lambda q: f(q, x), p)[1], model.params, tokens)
        stored.append(num_params(pull_fn) - num_params(model.params))
    assert stored[1] < stored[0] / 5
    # a derivative of a sum needs no bias: a block stores a little less than its parameters and one tensor
    assert (stored[2] - stored[1]) / 2 == pytest.approx(8 * 64 * 32, rel=0.01)


def test_tokens_out_of_range_give_nan():
    apply_fn, params = build()
    for wrong in (-1, -100, VOCABULARY):
        tokens = tokens_of(2)
        tokens[0, 2] = wrong
        scores = apply(apply_fn, params, tokens)
        assert np.isnan(scores[0, 2:]).all()
        assert np.isfinite(scores[1]).all()


@pytest.mark.parametrize(
    ("name", "shape", "options", "kind", "match"),
    [
        (
            "transformer",
            (8, 8, 1),
            {},
            ValueError,
            r"input_shape: expected \(context\), got \(8, 8, 1\) for transformer",
        ),
        (
            "mlp",
            (64,),
            {},
            ValueError,
            r"input_shape: expected \(height, width, channels\), got \(64,\) for mlp; .*text",
        ),
        ("transformer", (0,), {}, ValueError, "input_shape: expected an integer of at least 1, got 0"),
        ("transformer", (4,), {"heads": 5}, ValueError, "heads: expected a divisor of width = 64, got 5"),
        ("transformer", (4,), {"depth": 0}, ValueError, "depth: expected an integer of at least 1, got 0"),
        ("transformer", (4,), {"tied": 1}, TypeError, "tied: expected True or False, got 1"),
        ("transformer", (4,), {"remat": "no"}, TypeError, "remat: expected True or False, got 'no'"),
        ("transformer", (4,), {"dim": 8}, TypeError, "dim: expected an option of transformer, one of depth, width"),
    ],
)
def test_bad_options(name, shape, options, kind, match):
    with pytest.raises(kind, match=match) as error:
        abstract_model(name, shape, 3, **options)
    assert "\n" not in str(error.value)


def test_bad_inputs():
    apply_fn, params = build()
    for wrong in ((CONTEXT,), (2, CONTEXT + 1)):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(batch, 5\), got"):
            apply_fn(params, jnp.zeros(wrong, jnp.int32))
