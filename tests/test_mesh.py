"""Meshes, batches on them, and rules from the path of a parameter to its place."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, PartitionSpec

from cljax import Batch, curvature, losses, parallel
from cljax.parallel.mesh import num_shares


def test_axes():
    assert dict(parallel.make_mesh("data=4,model=2").shape) == {"data": 4, "model": 2}
    assert dict(parallel.make_mesh("data, model=2").shape) == {"data": 4, "model": 2}
    assert dict(parallel.make_mesh({"data": 2, "model": -1}).shape) == {"data": 2, "model": 4}
    two = parallel.make_mesh("data", devices=jax.devices()[4:6])
    assert [device.id for device in two.devices] == [4, 5]
    assert set(parallel.make_mesh("data=2").axis_types) == {AxisType.Auto}
    assert set(parallel.make_mesh("data=2", explicit=True).axis_types) == {AxisType.Explicit}
    assert parallel.data_mesh(2).size == 2


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("data,model", "mesh: expected at most one axis without a length, got data and model"),
        ("data,model=3", "mesh: expected axes whose product divides the 8 devices, .* multiple of 3"),
        ("data=16", "mesh: expected at most 8 devices, all there are, got 'data=16' for 16"),
        ("data=x", "mesh: expected NAME=LENGTH with an integer, got 'data=x'"),
        ("data=2,data=2", "mesh: expected NAME=LENGTH with different names, got 'data=2'"),
        ("", "mesh: expected NAME=LENGTH with different names, got ''"),
        ({"data": 0}, "mesh axis data: expected an integer of at least 1, got 0"),
        ({}, "mesh: expected at least one axis"),
    ],
)
def test_axes_that_cannot_be(axes, message):
    with pytest.raises(ValueError, match=message):
        parallel.make_mesh(axes)


def test_batches():
    mesh, x = parallel.make_mesh("data=4,model=2"), jnp.arange(16.0)
    assert parallel.shard_batch(x, mesh).sharding.spec == PartitionSpec("data")
    assert parallel.shard_batch(x, mesh, ("data", "model")).sharding.spec == PartitionSpec(("data", "model"))
    assert num_shares(mesh) == 4
    assert num_shares(parallel.make_mesh("x=4,y=2")) == 8
    with pytest.raises(ValueError, match="axes: expected axes of the mesh, data, model, got 'z'"):
        parallel.shard_batch(x, mesh, "z")
    with pytest.raises(ValueError, match="batch: expected a multiple of 4 examples, one share a device, got 3"):
        parallel.shard_batch(x[:3], mesh)


PARAMS = {
    "embed": jnp.zeros((65, 64)),
    "layers": [{"kernel": jnp.zeros((64, 128)), "bias": jnp.zeros(128)}, {"kernel": jnp.zeros((128, 10))}],
}


def specs(rules, params=None, mesh="data=4,model=2", **options):
    found = parallel.shardings(PARAMS if params is None else params, parallel.make_mesh(mesh), rules, **options)
    return jax.tree.map(lambda s: tuple(s.spec), found)


def test_rules():
    whole = {"embed": (), "layers": [{"kernel": (), "bias": ()}, {"kernel": ()}]}
    assert specs([]) == whole
    found = specs(["layers/1/=", "kernel=data,model", ("embed", PartitionSpec(None, "data")), "bias=data+model"])
    first = {"kernel": ("data", "model"), "bias": (("data", "model"),)}
    assert found == {"embed": (None, "data"), "layers": [first, {"kernel": ()}]}
    assert specs(["fsdp"]) == {
        "embed": (None, "data"),
        "layers": [{"kernel": (None, "data"), "bias": ()}, {"kernel": ("data",)}],
    }
    assert specs(["kernel=fsdp:data+model"])["layers"][1] == {"kernel": (("data", "model"),)}
    placed = parallel.shard_params(PARAMS, parallel.make_mesh("data=4,model=2"), ["fsdp"])
    assert placed["layers"][0]["kernel"].addressable_shards[0].data.shape == (64, 32)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            ["embed=model"],
            r"embed: expected axis 0 of shape \(65, 64\) to be a multiple of 2 .*, got 65; give it another",
        ),
        (["bias=,model"], r"layers/0/bias: expected a spec for at most 1 axes of shape \(128,\), got"),
        (["kernel=tensor"], "rules: expected axes of the mesh, data, model, got 'tensor' in 'kernel=tensor'"),
        (["kernel=data,data"], "rules: expected each axis of the mesh once, got 'kernel=data,data'"),
        (["kernel"], "rules: expected PATTERN=SPEC, got 'kernel'"),
        (["[=data"], r"rules: expected a regular expression, got '\['"),
        (["fsdp:"], "rules: expected axes of the mesh, data, model, got '' in 'fsdp:'"),
        ("fsdp", r"rules: expected a list of rules, got the string 'fsdp'; write \['fsdp'\]"),
        ([("kernel", "data", "model")], "rules: expected a string or a pair"),
        ([("kernel", (0,))], r"rules: expected names of mesh axes or None in a spec, got \(0,\) for 'kernel'"),
        ([("kernel", PartitionSpec(PartitionSpec.UNCONSTRAINED))], "rules: expected names of mesh axes or None"),
    ],
)
def test_rules_that_cannot_be(rules, message):
    with pytest.raises((ValueError, TypeError), match=message):
        specs(rules)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda mesh: parallel.shard_batch({"x": jnp.ones((8, 2)), "scale": 1.0}, mesh),
            r"batch\['scale'\]: .* a scalar",
        ),
        (
            lambda mesh: parallel.shard_batch(jnp.ones((7, 2)), mesh),
            "batch: expected a multiple of 4 examples, .* got 7",
        ),
        (
            lambda mesh: parallel.shard_batch(jnp.ones(8), mesh, ("data", "data")),
            "axes: expected each axis of the mesh",
        ),
        (lambda mesh: parallel.batch_rows(7, mesh), "num_rows: expected a multiple of 4, one share a device, got 7"),
    ],
)
def test_batches_that_cannot_be_split(call, message):
    with pytest.raises(ValueError, match=message):
        call(parallel.make_mesh("data=4,model=2"))


def test_flax_metadata_come_first():
    init = linen.initializers.ones_init()
    named = linen.Dense(16, kernel_init=linen.with_partitioning(init, (None, "model")))
    logical = linen.Dense(16, kernel_init=linen.with_logical_partitioning(init, ("in", "hidden")))
    params = {
        name: jax.eval_shape(module.init, jax.random.key(0), jnp.ones((2, 8)))["params"]
        for name, module in {"named": named, "logical": logical}.items()
    }
    found = specs(["bias=data", "kernel=data"], params, logical_axes=[("hidden", "model")])
    assert found == {name: {"kernel": (None, "model"), "bias": ("data",)} for name in params}
    mesh = parallel.make_mesh("data=4,model=2")
    with jax.set_mesh(mesh):
        layer = nnx.Linear(8, 16, kernel_init=nnx.with_partitioning(init, (None, "model")), rngs=nnx.Rngs(0))
    state = nnx.state(layer)
    placed = parallel.shard_params(state, mesh, ["bias=data"])
    assert placed["kernel"].sharding.spec == PartitionSpec(None, "model")
    assert placed["bias"].sharding.spec == PartitionSpec("data")


def test_microbatches_are_shared_out():
    """Each device works on its part of every microbatch: no example travels, and an eighth of the work is left."""

    def program(num_devices):
        mesh = parallel.data_mesh(num_devices)
        objective = losses.objective(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], losses.fenchel_young(losses.shannon()))
        params = parallel.replicate({"a": jnp.ones((64, 32)), "b": jnp.ones((32, 4))}, mesh)
        batch = parallel.shard_batch(Batch(jnp.ones((256, 64)), jnp.zeros(256, int)), mesh)
        op = curvature.hessian(objective, params, batch, microbatch_size=32)
        return jax.jit(lambda op, v: op @ v).lower(op, params).compile()

    one, eight = program(1), program(8)
    assert "all-gather" not in eight.as_text()
    assert "all-to-all" not in eight.as_text()
    # beside the examples there are the sums and steps on whole vectors, of which there are few
    assert eight.cost_analysis()["flops"] <= one.cost_analysis()["flops"] / 8 + 8 * 32 * (64 + 4)
