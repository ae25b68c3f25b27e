"""Losses of many scores in chunks of tokens: the same numbers as whole, in a fraction of the memory."""

import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, parallel
from tests.oracles import flat, tolerance
from tests.problems import SHANNON, smooth_huber

SHAPE, CLASSES, WIDTH = (3, 5), 7, 3  # 15 tokens: chunks of 4 need padding


def features(params, x):
    return jnp.tanh(params["embed"][x] @ params["inner"])


def head(params, h):
    return h @ params["embed"].T + params["bias"][None]  # the embedding once more


def whole(params, x):
    return features(params, x) @ params["embed"].T + params["bias"][None, None]


def make(soft=False, mask=None, dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = {"embed": (CLASSES, WIDTH), "inner": (WIDTH, WIDTH), "bias": (CLASSES,)}
    params = {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    inputs = jnp.asarray(rng.integers(CLASSES, size=SHAPE), jnp.int32)
    labels = rng.integers(CLASSES, size=SHAPE)
    soft_targets = rng.dirichlet(np.ones(CLASSES), SHAPE)
    weight = rng.uniform(size=SHAPE)
    if mask is not None:
        weight.flat[list(mask)] = 0
        labels.flat[list(mask)] = -100
        soft_targets[weight == 0] = np.nan
    targets = jnp.asarray(soft_targets, dtype) if soft else jnp.asarray(labels, jnp.int32)
    return params, cljax.Batch(inputs, targets, jnp.asarray(weight, dtype))


CASES = {  # loss, problem, chunk size
    "shannon": (SHANNON, lambda: make(mask=(1, 3, 4, 11)), 4),
    "sparsemax": (losses.fenchel_young(losses.sparsemax()), make, 6),
    "soft": (SHANNON, lambda: make(soft=True, mask=(0, 5)), 1),
    "not-fenchel-young": (smooth_huber, lambda: make(soft=True, mask=(11,)), 99),
}


def close(got, expected):
    got, expected = flat(got), flat(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(jnp.float64, 100, np.abs(expected).max()))


@pytest.mark.fast
@pytest.mark.parametrize("name", CASES)
def test_chunks_are_exact(name, x64):
    """Value, gradient, Hessian product and Gauss-Newton product."""
    loss, problem, chunk_size = CASES[name]
    chunked = losses.chunked_objective(features, head, loss, chunk_size=chunk_size)

    @jax.jit
    def both(params, batch, v):
        ops = curvature.chunked_gauss_newton(chunked, params, batch), curvature.gauss_newton(whole, loss, params, batch)
        objectives = chunked, losses.objective(whole, loss)
        results = []
        for objective, op in zip(objectives, ops, strict=True):
            gradient_fn = jax.grad(lambda p, objective=objective: objective(p, batch))
            results.append((objective(params, batch), jax.jvp(gradient_fn, (params,), (v,)), op @ v))
        return results

    params, batch = problem()
    for got, expected in zip(*both(params, batch, jax.tree.map(jnp.cos, params)), strict=True):
        close(got, expected)


def test_weights_and_shapes_of_batches(x64):
    """Microbatches, weights of whole sequences, no weights, tokens without sequences."""
    chunked = losses.chunked_objective(features, head, SHANNON, chunk_size=4)
    plain = losses.objective(whole, SHANNON)

    @jax.jit
    def pairs(params, batch):
        sizes = (2, None)
        ops = [curvature.chunked_gauss_newton(chunked, params, batch, microbatch_size=size) for size in sizes]
        found = [tuple(op @ params for op in ops)]
        for weight in (None, jnp.array([1.0, 0.0, 2.0])):
            part = cljax.Batch(batch.inputs, batch.targets, weight)
            found.append((chunked(params, part), plain(params, part)))
        rows = jax.tree.map(lambda x: x.reshape(-1), batch)
        return [*found, (chunked(params, rows), plain(params, batch))]

    for got, expected in pairs(*make()):
        close(got, expected)


def test_half_precision_is_summed_in_single_and_no_weight_gives_nan():
    chunked = losses.chunked_objective(features, head, SHANNON, chunk_size=1)

    @jax.jit
    def results(params, batch):
        ops = (
            curvature.chunked_gauss_newton(chunked, params, batch),
            curvature.gauss_newton(whole, SHANNON, params, batch),
        )
        return chunked(params, batch), *(op @ params for op in ops)

    params, batch = make(dtype=np.float16)
    value, product, expected = results(params, batch)
    assert value.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(product))
    scale = np.abs(flat(expected)).max()
    np.testing.assert_allclose(flat(product), flat(expected), rtol=0, atol=tolerance(jnp.float16, 12, scale))
    nothing = cljax.Batch(batch.inputs, batch.targets, jnp.zeros_like(batch.weight))
    assert all(np.isnan(flat(part)).all() for part in results(params, nothing))


@pytest.mark.fast
def test_gradients_in_half_precision_are_summed_over_chunks_in_single():
    inputs = jax.random.normal(jax.random.key(1), (2048, 8)).astype(jnp.bfloat16)
    params = jax.random.normal(jax.random.key(0), (8, 5)).astype(jnp.bfloat16)
    batch = cljax.Batch(inputs, jnp.arange(2048) % 5)

    def gradient(chunk_size):
        chunked = losses.chunked_objective(lambda _, x: x, lambda w, h: h @ w, SHANNON, chunk_size=chunk_size)
        found = jax.jit(jax.grad(chunked))(params, batch)
        assert found.dtype == jnp.bfloat16
        return np.asarray(found, np.float64)

    expected = gradient(2048)
    assert np.linalg.norm(gradient(1) - expected) <= jnp.finfo(jnp.bfloat16).eps * np.linalg.norm(expected)


def test_wrong_input():
    params, batch = make(dtype=np.float32)

    def objective(features_fn=features, head_fn=head, loss=SHANNON, chunk_size=4):
        return losses.chunked_objective(features_fn, head_fn, loss, chunk_size=chunk_size)

    with pytest.raises(ValueError, match="chunk_size"):
        objective(chunk_size=0)
    with pytest.raises(TypeError, match="chunked_objective"):
        curvature.chunked_gauss_newton(losses.objective(whole, SHANNON), params, batch)
    with pytest.raises(ValueError, match="features_fn: expected features"):
        objective(lambda p, x: p["bias"])(params, batch)
    with pytest.raises(ValueError, match=r"batch.targets: expected shape \(3, 5\)"):
        objective()(params, cljax.Batch(batch.inputs, batch.targets[:, :2]))
    with pytest.raises(ValueError, match="weight"):
        objective()(params, cljax.Batch(batch.inputs, batch.targets, jnp.ones((3, 2))))
    with pytest.raises(ValueError, match="loss: expected shapes"):
        objective(loss=lambda s, y: jnp.mean(SHANNON(s, y)))(params, batch)


def test_chunks_of_sharded_tokens_move_no_scores():
    """Each chunk has tokens of every device: what travels is no longer than the parameters."""
    mesh = parallel.data_mesh()
    params, batch = make(dtype=np.float32)
    batch = jax.tree.map(lambda x: jnp.tile(x, (8, 1) + (1,) * (x.ndim - 2)), batch)
    chunked = losses.chunked_objective(features, head, SHANNON, chunk_size=24)
    placed = parallel.replicate(params, mesh), parallel.shard_batch(batch, mesh)
    text = jax.jit(jax.grad(chunked)).lower(*placed).compile().as_text()
    assert "all-reduce" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


def language_model(batch=8, length=128, width=64, vocabulary=50304):
    """Abstract parameters and batch, and the model: its programs are compiled and never run."""

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {"embed": array(512, width), "inner": array(width, width), "head": array(width, vocabulary)}
    tokens = array(batch, length, dtype=jnp.int32)
    return params, cljax.Batch(tokens, tokens, array(batch, length))


def embed(params, x):
    return jnp.tanh(params["embed"][x] @ params["inner"])


def scores(params, h):
    return h @ params["head"]


CHUNKS = 8
CHUNKED = losses.chunked_objective(embed, scores, SHANNON, chunk_size=8 * 128 // CHUNKS)
PLAIN = losses.objective(lambda params, x: scores(params, embed(params, x)), SHANNON)
PRODUCTS = {
    "hessian": (
        lambda params, batch: curvature.hessian(CHUNKED, params, batch).linearize(),
        lambda params, batch: curvature.hessian(PLAIN, params, batch).linearize(),
    ),
    "gauss_newton": (
        lambda params, batch: curvature.chunked_gauss_newton(CHUNKED, params, batch).linearize(),
        lambda params, batch: curvature.gauss_newton(PLAIN.apply_fn, SHANNON, params, batch).linearize(),
    ),
}


class Analysis(typing.NamedTuple):
    flops: float
    temp: int  # bytes
    out: int  # bytes


def analyze(fn, *args):
    compiled = jax.jit(fn).lower(*args).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return Analysis(cost["flops"], memory.temp_size_in_bytes, memory.output_size_in_bytes)


@pytest.mark.parametrize("name", PRODUCTS)
def test_peak_memory_and_price_at_a_vocabulary_of_50304(name):
    params, batch = language_model()
    chunked, plain = PRODUCTS[name]
    fresh, fresh_plain = (analyze(lambda p, b, v, fn=fn: fn(p, b)(v), params, batch, params) for fn in (chunked, plain))
    assert fresh.temp <= 0.15 * fresh_plain.temp
    # a solver holds the linearization from product to product
    linearized = analyze(chunked, params, batch)
    product, product_plain = (jax.eval_shape(fn, params, batch) for fn in (chunked, plain))
    one, one_plain = (analyze(lambda product, v: product(v), fn, params) for fn in (product, product_plain))
    assert linearized.out <= 2 * sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    assert linearized.temp <= 0.15 * fresh_plain.temp
    assert linearized.out + one.temp <= 0.2 * fresh_plain.temp
    # the compiler counts the body of a loop once: times the chunks is an upper bound
    assert CHUNKS * fresh.flops <= 1.25 * fresh_plain.flops
    assert CHUNKS * one.flops <= 1.3 * one_plain.flops


def test_price_of_the_gradient():
    params, batch = language_model()
    chunked, plain = (analyze(jax.value_and_grad(objective), params, batch) for objective in (CHUNKED, PLAIN))
    assert CHUNKS * chunked.flops <= 1.35 * plain.flops
    assert chunked.temp <= 0.25 * plain.temp
