"""Runs on a mesh: the numbers of one device, state that stays where it is, checkpoints that go on elsewhere."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cljax import cli, training
from cljax.training.checkpoint import Checkpoints
from cljax.training.run import make_run
from tests.runs import assert_close, read_rows, tiny

MESH = {
    "num_devices": None,
    "mesh": "data=4,model=2",
    "shard": ("kernel=data,model", "bias=model"),
    "num_steps": 6,
    "measure_every": 6,
}
MESH |= {"model_option": ("hidden=(16,)",), "checkpoint_every": 3, "sharded_basis": True, "density_probes": 0}
COMPARED = ("train_loss", "test_loss", "train_accuracy", "gauss_newton_top", "gradient_energy", "hessian_top")


def specs(state):
    return [x.sharding for x in jax.tree.leaves(state)]


def check_rows(found, expected):
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(found, expected):
        for name in COMPARED:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, err_msg=name)


ELSEWHERE = {
    "one device": {"mesh": None, "shard": (), "num_devices": 1, "sharded_basis": False},
    "two devices": {"mesh": "data=2", "shard": ("fsdp",)},
}


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_a_mesh_goes_on_on_another(tmp_path):
    one = training.fit(tiny(tmp_path / "one", **{**MESH, **ELSEWHERE["one device"]}), progress=False)
    config = tiny(tmp_path, **MESH)
    training.fit(config, progress=False, stop_after=4)
    for name, elsewhere in ELSEWHERE.items():
        # on another machine the configuration names another mesh, and its folder may have moved
        folder = tmp_path / name
        shutil.copytree(config.directory, folder)
        dataclasses.replace(config, run_dir=str(folder), **elsewhere).save(folder / "config.json")
        check_rows(training.resume(folder, progress=False).rows, one.rows)
        assert read_rows(folder)[-1]["step"] == config.num_steps


def test_training_keeps_every_leaf_in_its_place(tmp_path):
    """Biases too, which no rule names: left alone the compiler splits them as it splits the kernels."""
    run, state = make_run(tiny(tmp_path, **{**MESH, "shard": ("kernel=data,model",)}))
    kernel = state.train.params["hidden_0"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec("data", "model")
    assert {x.sharding.spec for x in jax.tree.leaves(state.tracker.hessian.vectors)} != {PartitionSpec()}
    momentum = jax.tree.leaves(state.train.opt_state)
    assert [x.sharding for x in momentum[:-1]] == specs(state.train.params)
    before, train = specs(state.train), state.train
    for step in range(2):
        train = run.step_fn(train, run.put(run.batches(step)))
    assert kernel.is_deleted()
    assert specs(train) == before
    assert run.step_fn._cache_size() <= 1  # 0 where the global cache was full


@pytest.mark.slow
def test_measuring_keeps_every_vector_in_its_place(tmp_path):
    run, state = make_run(tiny(tmp_path, **MESH))
    params = state.train.params
    tracked, _ = run.tracker.measure(state.tracker, params, run.curvature_batch, jax.random.key(0))
    assert specs(tracked.hessian.vectors) == specs(state.tracker.hessian.vectors)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_checkpoint_is_read_into_another_mesh(name, tmp_path):
    _, state = make_run(tiny(tmp_path, **MESH))
    rng = np.random.default_rng(0)
    vectors = jax.tree.map(lambda x: jax.device_put(rng.random(x.shape), x.sharding), state.tracker.hessian.vectors)
    pairs = dataclasses.replace(state.tracker.hessian, vectors=jax.tree.map(lambda x: x.astype("float32"), vectors))
    state = dataclasses.replace(state, tracker=dataclasses.replace(state.tracker, hessian=pairs))
    Checkpoints(tmp_path / "checkpoints").save(3, state, 2)
    _, like = make_run(tiny(tmp_path, **{**MESH, **ELSEWHERE[name]}))
    restored = Checkpoints(tmp_path / "checkpoints").restore(like)
    for found, saved, place in zip(*map(jax.tree.leaves, (restored.state, state, like)), strict=True):
        assert found.sharding.is_equivalent_to(place.sharding, found.ndim)
        if not jax.dtypes.issubdtype(found.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(found, saved)


def test_spectrum_and_bounds_of_a_run_on_a_mesh(tmp_path, capsys):
    """As it was configured, and on one device by flags; what does not fit is told with the remedy."""
    config = tiny(tmp_path, **MESH, max_products=12)
    _, state = make_run(config)
    config.directory.mkdir()
    config.save(config.directory / "config.json")
    Checkpoints(config.directory / "checkpoints").save(3, state, 1)
    commands = [["spectrum", "--num-probes", "1", "--num-steps", "4"], ["bounds", "--num-examples", "16"]]
    found = []
    for devices in ([], ["--num-devices", "1", "--mesh", "data=1,model=1"]):
        for command in commands:
            assert cli.main([*command, str(config.directory), *devices]) == 0
        found.append([json.loads((config.directory / name).read_text()) for name in ("spectrum-3.json", "bounds.json")])
    assert_close(*found)
    capsys.readouterr()
    for command, *_ in commands:
        assert cli.main([command, str(config.directory), "--num-devices", "1"]) == 2
        assert capsys.readouterr().err == (
            "cljax: error: mesh: expected at most 1 devices, all there are, got 'data=4,model=2' for 8; give another "
            "mesh\n"
        )
        assert cli.main([command, str(config.directory), "--mesh", "data=2"]) == 2
        assert "give it that axis, if with length 1: model=1" in capsys.readouterr().err


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="mesh: expected at most 1 devices"):
        make_run(tiny(tmp_path, mesh="data=2"))
    with pytest.raises(ValueError, match="rules: expected axes of the mesh, data, got 'model'"):
        make_run(tiny(tmp_path, shard=("kernel=model",)))
