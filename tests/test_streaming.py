"""Operators on streamed batches: those of the whole data, one program, and no data that changes unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, spectral
from tests.oracles import flat, tolerance
from tests.problems import SHANNON, mlp, problem

SIZES = (16, 16, 1)


def data(dtype=np.float64, weights=True):
    rng = np.random.default_rng(0)
    inputs, weight = rng.standard_normal((33, 4)).astype(dtype), rng.uniform(size=33).astype(dtype)
    weight[[2, 20]] = 0
    return cljax.Batch(inputs, np.arange(33, dtype=np.int32) % 3, weight if weights else None)


def cut(batch, sizes=SIZES):
    ends = np.cumsum(sizes)
    return [jax.tree.map(lambda x, a=a, b=b: x[a:b], batch) for a, b in zip(ends - sizes, ends, strict=True)]


OBJECTIVE = losses.objective(mlp, SHANNON)
OPERATORS = {
    "hessian": lambda params, batch: curvature.hessian(OBJECTIVE, params, batch),
    "gauss_newton": lambda params, batch: curvature.gauss_newton(mlp, SHANNON, params, batch),
    "microbatched": lambda params, batch: curvature.hessian(OBJECTIVE, params, batch, microbatch_size=5),
}


def stream(batches, dtype=jnp.float64, name="hessian"):
    params = problem("softmax-mlp", dtype).params
    return params, curvature.streamed(lambda batch: OPERATORS[name](params, batch), batches)


def close(got, expected, dtype=jnp.float64):
    got, expected = flat(got), flat(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(dtype, 100, np.abs(expected).max()))


@pytest.mark.fast
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_products_are_those_of_the_whole_data(name, weights, x64):
    params, op = stream(cut(data(weights=weights)), name=name)
    close(
        op @ params,
        OPERATORS["gauss_newton" if name == "gauss_newton" else "hessian"](params, data(weights=weights)) @ params,
    )


def test_any_source_any_order_and_device_arrays(x64):
    batches = cut(data())
    params, op = stream(batches)
    expected = op @ params
    for source in (lambda: iter(batches), batches[::-1], [jax.tree.map(jnp.asarray, batch) for batch in batches]):
        close(stream(source)[1] @ params, expected)
    tuples = [(batch.inputs, batch.targets, batch.weight) for batch in batches]
    close(stream(tuples)[1] @ params, expected)


def test_mean_of_loss_and_gradient(x64):
    params = problem("softmax-mlp").params
    fn = jax.jit(jax.value_and_grad(OBJECTIVE))
    close(curvature.streamed_mean(lambda batch: fn(params, batch), cut(data())), fn(params, data()))


def test_batches_without_weight_count_for_nothing(x64):
    batches = cut(data())
    empty = cljax.Batch(batches[0].inputs, batches[0].targets, np.zeros(16))
    params, op = stream([empty, *batches])
    close(op @ params, stream(batches)[1] @ params)
    with pytest.raises(ValueError, match="weight above 0"):
        stream([empty])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float64])
def test_masks_and_counts_go_with_batches_without_weights(dtype):
    plain, masked = cut(data(np.float32, weights=False), (16, 17))
    mask = (np.arange(17) < 12).astype(dtype)
    params, op = stream([plain, cljax.Batch(masked.inputs, masked.targets, mask)], jnp.float32)
    kept = jax.tree.map(lambda x: x[:28], data(np.float32, weights=False))
    close(op @ params, OPERATORS["hessian"](params, kept) @ params, jnp.float32)


def test_sums_and_combinations(x64):
    params, op = stream(cut(data()))
    other = curvature.FunctionOperator(lambda v, c: jax.tree.map(lambda x: c * x, v), params, jnp.array(2.0))
    assert op.host_only
    assert not other.host_only
    both = other + op.scale(3.0)
    assert both.host_only
    expected = jax.tree.map(lambda p, hp: 2 * p + 3 * hp, params, op @ params)
    close(both @ params, expected)
    close(both.linearize()(params), expected)


def test_half_precision_is_summed_in_single():
    """In bfloat16 the sum of ones would stop at 256."""
    one = cljax.Batch(jnp.ones((1, 1), jnp.bfloat16), jnp.zeros((1, 1), jnp.bfloat16))
    w = jnp.ones((1, 1), jnp.bfloat16)
    objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
    product = curvature.streamed(lambda batch: curvature.hessian(objective, w, batch), [one] * 400) @ w
    assert product.dtype == jnp.bfloat16
    assert product.item() == 1.0


def test_one_program_for_uneven_batches_and_new_parameters():
    traces = []

    def model(params, x):
        traces.append(x.shape)
        return mlp(params, x)

    objective = losses.objective(model, SHANNON)
    params = problem("softmax-mlp", jnp.float32).params
    for factor in (1.0, 1.1):
        point = jax.tree.map(lambda p, factor=factor: factor * p, params)
        op = curvature.streamed(
            lambda batch, point=point: curvature.hessian(objective, point, batch), cut(data(np.float32))
        )
        op @ params
        op @ params
        assert set(traces) == {(16, 4)}
        first = traces.copy() if factor == 1.0 else first
    assert traces == first


def test_data_is_read_as_the_device_gets_along(monkeypatch):
    """Once for each product, and never more than two batches ahead."""
    read, waited = [], []
    batches = cut(data(np.float32), (4,) * 8)
    wait = jax.block_until_ready

    def source():
        for index, batch in enumerate(batches):
            assert index - len(waited) <= 3
            read.append(index)
            yield batch

    params, op = stream(source, jnp.float32)
    assert read == [0]
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waited.append(1) or wait(x))
    read.clear()
    op @ params
    assert read == list(range(8))
    assert len(waited) == 6


def test_wrong_data():
    batches = cut(data(np.float32))
    with pytest.raises(ValueError, match="iterator .generator.; pass a list"):
        curvature.streamed(lambda batch: batch, (batch for batch in batches))
    with pytest.raises(TypeError, match="batches: expected an iterable"):
        curvature.streamed(lambda batch: batch, 3)
    with pytest.raises(ValueError, match="at least one batch"):
        stream([], jnp.float32)
    with pytest.raises(TypeError, match="items cljax.Batch, got ndarray"):
        stream([np.ones(3)], jnp.float32)
    with pytest.raises(TypeError, match="LinearOperator"):
        curvature.streamed(lambda batch: batch.inputs, batches)
    negative = cljax.Batch(batches[0].inputs, batches[0].targets, -batches[0].weight)
    with pytest.raises(ValueError, match="negative weight"):
        stream([negative], jnp.float32)
    inputs, targets, weight = batches[1].inputs, batches[1].targets, batches[1].weight
    others = [
        cljax.Batch(inputs[:, :2], targets, weight),
        cljax.Batch(inputs, np.eye(3, dtype=np.float32)[targets], weight),
        cljax.Batch(inputs, targets, weight.astype(np.float16)),
    ]
    for other in others:
        params, op = stream([batches[0], other], jnp.float32)
        with pytest.raises(ValueError, match="like the first but for its size"):
            op @ params


def test_passes_that_differ():
    batches = cut(data(np.float32))
    once = iter(batches)
    params, op = stream(lambda: once, jnp.float32)
    op @ params  # what is left
    with pytest.raises(ValueError, match="examples of weight 0|data of the first pass"):
        op @ params
    changing = list(batches)
    params, op = stream(changing, jnp.float32)
    op @ params
    changing[2] = changing[1]
    with pytest.raises(ValueError, match="data of the first pass, 33 examples"):
        op @ params
    changing[2] = cljax.Batch(batches[2].inputs, batches[2].targets, batches[2].weight + 0.01)
    with pytest.raises(ValueError, match="of weight"):
        op @ params
    changing[2] = batches[2]
    op @ params


def test_inside_of_jit():
    params, op = stream(cut(data(np.float32)), jnp.float32)
    for fn in (lambda v: op @ v, lambda v: op.scale(2.0) @ v):
        with pytest.raises(ValueError, match="run on the host"):
            jax.jit(fn)(params)
    with pytest.raises(ValueError, match="run on the host"):
        jax.jit(lambda op, v: op @ v)(op, params)


@pytest.mark.fast
def test_eigenpairs():
    params, op = stream(cut(data(np.float32)), jnp.float32)
    whole = OPERATORS["hessian"](params, data(np.float32))
    exact = np.linalg.eigvalsh(np.asarray(curvature.to_dense(whole)))
    for driver in ("host", "auto"):
        pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), tol=1e-4, max_products=30, driver=driver)
        assert bool(pairs.converged.all())
        np.testing.assert_allclose(pairs.values[-1], exact[-1], rtol=0, atol=2e-4 * np.abs(exact).max())
    with pytest.raises(ValueError, match="host"):
        spectral.extreme_eigenpairs(op, jax.random.key(0), driver="compiled")
