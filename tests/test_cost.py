"""Predicted costs against compiled programs, closed forms, and the collectives of a compiled product."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.communication import collectives
from cljax import Batch, cli, curvature, losses, parallel, spectral, training
from cljax.training.models import abstract_model

N, WIDTH, CLASSES = 32, 64, 8
OBJECTIVE = losses.objective(
    lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"] + p["bias"][None], losses.fenchel_young(losses.shannon())
)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


PARAMS = {"in": shape(16, WIDTH), "out": shape(WIDTH, CLASSES), "bias": shape(CLASSES)}
BATCH = Batch(shape(N, 16), shape(N, dtype=jnp.int32), shape(N))
OP = curvature.hessian(OBJECTIVE, PARAMS, BATCH, method="forward_over_reverse")
NUM_PARAMS = 16 * WIDTH + WIDTH * CLASSES + CLASSES


def layout(mesh, **specs):
    return {name: NamedSharding(mesh, PartitionSpec(*specs.get(name, ()))) for name in PARAMS}


@pytest.mark.parametrize("stored", [True, False])
def test_operations_are_those_of_the_compiled_product(stored):
    """Matrix products outweigh the rest, a tenth of them. Stored: 2 with the first kernel and 6 with the second one."""
    found = spectral.predict_cost(OP, stored=stored, num_products=10)

    def product(op, v):
        return jax.jvp(jax.grad(lambda p: OBJECTIVE(p, *op.args)), (op.params,), (v,))[1]

    whole = jax.jit(product).lower(OP, PARAMS).compile().cost_analysis()["flops"]
    expected = 2 * N * WIDTH * (2 * 16 + 6 * CLASSES) if stored else whole
    assert found.product_flops == pytest.approx(expected, rel=0.1)


def test_bytes_in_closed_form():
    mesh = parallel.abstract_mesh("data=8")
    cost = spectral.predict_cost(OP, shardings=layout(mesh), num_products=20)
    assert cost.num_devices == 8
    assert cost.parameters == 4 * NUM_PARAMS
    assert cost.batch == 4 * (N * 16 + 2 * N)
    assert cost.basis == 21 * 4 * NUM_PARAMS
    assert cost.vectors == 4 * 4 * NUM_PARAMS
    assert cost.step_read == 2 * 11 * 4 * NUM_PARAMS
    spread = spectral.predict_cost(OP, shardings=layout(mesh), num_products=20, sharded_basis=True)
    assert spread.basis == math.ceil(cost.basis / 8)
    assert spectral.predict_cost(OP, num_products=20, basis_size=5).basis == 5 * 4 * NUM_PARAMS
    split = spectral.predict_cost(OP, shardings=layout(mesh, **{"in": (None, "data")}), num_products=20)
    assert split.parameters == 4 * (NUM_PARAMS - 16 * WIDTH * 7 // 8) + 2 * 4 * 16 * WIDTH
    assert cost.device_bytes == cost.parameters + cost.batch + cost.activations + cost.vectors + cost.basis


@pytest.mark.parametrize("num_passes", [1, 4])
def test_whole_parameters_send_one_sum_of_the_gradient(num_passes):
    """A ring sends 2 · 7/8 of a gradient, of several batches too. XLA on CPUs sums the two terms of the second kernel
    apart: both travel, unless microbatches add them up."""
    mesh = parallel.data_mesh(8)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), PARAMS, layout(mesh))
    split, num = NamedSharding(mesh, PartitionSpec("data")), 8 * num_passes * N
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype, sharding=split), BATCH)
    size = None if num_passes == 1 else 8 * N
    op = curvature.hessian(OBJECTIVE, params, batch, method="forward_over_reverse", microbatch_size=size)
    program = jax.jit(lambda op, v: op @ v).lower(op, params).compile()
    summed = sum(size for kind, size in collectives(program) if kind == "all-reduce")
    options = {"stored": num_passes == 1, "num_passes": num_passes, "num_products": 10}
    predicted = spectral.predict_cost(OP, shardings=layout(mesh), **options).product_sent
    assert predicted == pytest.approx(2 * 7 / 8 * 4 * NUM_PARAMS)
    # beside the gradient, the sum of the weights and the like: a few scalars
    assert 4 * NUM_PARAMS <= summed <= 4 * (NUM_PARAMS + WIDTH * CLASSES * (num_passes == 1)) + 64
    assert [s for _, s in collectives(program, main_path=True)] == [s for _, s in collectives(program)]


def test_split_parameters_are_gathered_and_scattered():
    mesh = parallel.abstract_mesh("data=4,model=2")
    places = layout(mesh, **{"in": ("data",), "out": (("data", "model"),)})
    in_bytes, out_bytes, bias_bytes = 4 * 16 * WIDTH, 4 * WIDTH * CLASSES, 4 * CLASSES
    for stored, gathers in ((True, 2), (False, 4)):
        cost = spectral.predict_cost(OP, shardings=places, stored=stored)
        expected = in_bytes * (gathers + 1) * 3 / 4
        expected += out_bytes * (gathers * 7 / 8 + 3 / 4)
        expected += bias_bytes * 2 * 3 / 4
        assert cost.product_sent == pytest.approx(expected)


def test_a_checkpointed_block_counts_what_it_computes_again():
    def activations(**options):
        model = abstract_model("transformer", (32,), 50, depth=8, width=32, heads=2, **options)
        objective_fn = losses.objective(model.apply_fn, losses.fenchel_young(losses.shannon()))
        tokens = shape(1, 32, dtype=jnp.int32)
        op = curvature.hessian(objective_fn, model.params, Batch(tokens, tokens), method="forward_over_reverse")
        return spectral.predict_cost(op, stored=False).activations

    blocks = 2 * 8 * 4 * 32 * 32  # values and tangents of the input of each block
    assert blocks < activations(remat=True) < activations() / 2


def test_seconds():
    cost = spectral.predict_cost(OP, shardings=layout(parallel.abstract_mesh("data=8")), num_products=10)
    found = cost.seconds(spectral.Rates(flops=1e9, memory=1e8, link=1e6))
    assert found["compute"] == pytest.approx(10 * cost.product_flops / 1e9)
    assert found["communicate"] == pytest.approx(10 * cost.product_sent / 1e6)
    assert found["total"] == pytest.approx(sum(found.values()) - found["total"])
    assert math.isnan(cost.seconds(spectral.Rates(1e9, 1e8))["total"])
    assert spectral.predict_cost(OP).seconds(spectral.Rates(1e9, 1e8))["communicate"] == 0


def test_rates_are_measured():
    rates = spectral.measure_rates(size=64, num_bytes=1 << 16, repeats=1)
    assert all(0 < rate < math.inf for rate in dataclasses.astuple(rates))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral.predict_cost(OP, num_passes=2), "stored: expected False"),
        (lambda: spectral.predict_cost(OP, num_products=0), "num_products"),
        (lambda: spectral.Rates(0, 1), "flops: expected"),
        (lambda: parallel.abstract_mesh("data"), "expected a length for data"),
        (lambda: training.PlanConfig(size="3B"), "size"),
        (lambda: training.PlanConfig(model="mlp", size="7B"), "size: expected none"),
        (lambda: training.PlanConfig(device_memory=0), "device_memory"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="expected a Hessian"):
        spectral.predict_cost(curvature.FunctionOperator(lambda v: v, jnp.zeros(3)))


def test_command(capsys):
    rates = ["--flops-rate", "1e13", "--memory-rate", "1e12", "--device-memory", "8e10"]
    assert cli.main(["plan", "--size", "124M", "--mesh", "data=8", *rates]) == 0
    printed = capsys.readouterr().out
    assert "124,439,808 parameters on 8 devices" in printed
    for mode in training.plan.MODES:
        assert mode in printed
    assert cli.main(["plan", "--mesh", "data=0"]) == 2
