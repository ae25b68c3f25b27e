"""Runs of several real processes on the loopback interface: the numbers of one, a wish to end, a lost process."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cljax import _report, cli, parallel, training
from cljax.training.batches import Batches
from cljax.training.checkpoint import Checkpoints
from tests.process_worker import eigenvalues
from tests.runs import flags, read_rows, tiny

ROOT = pathlib.Path(__file__).parent.parent
GUARD = 500
"""Seconds after which a test that hangs fails."""
LOST = r"cljax: error: process \d of \d: another process was lost \(.*\); cljax resume .* goes on from step 4, "
RUNTIME = "Terminating process because the JAX distributed service detected fatal errors"


def launch(num_processes, task, devices=1, awaited=None):
    """Run processes to their ends; returns (exit code, stdout, stderr) of those awaited, of all where None."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    xla = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}
    command = [sys.executable, "-m", "tests.process_worker", coordinator, str(num_processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([*command, str(index), json.dumps(task)], env=environment, cwd=ROOT, **pipes)
        for index in range(num_processes)
    ]
    try:
        ended = []
        for index in range(num_processes) if awaited is None else awaited:
            out, err = started[index].communicate(timeout=GUARD)
            ended.append((started[index].returncode, out, err))
        return ended
    finally:
        for process in started:
            process.kill()
            process.communicate()


def short(folder, **changes):
    """A run of few programs, so far from its end that a signal comes before it."""
    few = {"num_top": 1, "max_products": 14, "structure_examples": 4, "density_probes": 0, "num_devices": None}
    return tiny(folder, **{**few, "num_steps": 400, "measure_every": 2, **changes})


def assert_same_rows(found, expected):
    """The same sums in another order, then the same training on them: float32 rounding, grown over a few steps."""
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, one in zip(found, expected, strict=True):
        assert row.keys() == one.keys()
        for name in ("train_loss", "test_loss", "curvature_loss", "gradient_norm", "gradient_energy", "structure_max"):
            assert row[name] == pytest.approx(one[name], rel=1e-4), name
        for end in ("top", "bottom"):
            slack = np.array(one[f"hessian_{end}_residual"]) + row[f"hessian_{end}_residual"]
            gap = np.abs(np.subtract(one[f"hessian_{end}"], row[f"hessian_{end}"]))
            assert (gap <= slack + 1e-4 * one["hessian_top"][0]).all()


def assert_same_eigenvalues(ended, num_processes):
    """Float64 sums of 16 rows in another order, pairs converged to 1e-12."""
    shares = [json.loads(re.search(r"^eigenvalues (.*)$", out, re.MULTILINE)[1]) for _, out, _ in ended]
    names = [name for name in shares[0] if name != "rows"]
    expected = eigenvalues(names, 1)
    for share in shares:
        assert len(share["rows"]) == 16 // num_processes
        for name in names:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(share[name], expected[name], rtol=1e-10, atol=1e-10 * scale)
    return [row for share in shares for row in share["rows"]]


def one_device(config, folder, stop_after):
    alone = dataclasses.replace(config, num_devices=1, run_dir=str(folder / "one"))
    return training.fit(alone, progress=False, stop_after=stop_after)


def test_two_processes_have_the_eigenvalues_of_one(tmp_path):
    """And write a checkpoint together, which eight devices of one process read."""
    ended = launch(2, {"eigenvalues": ["hessian"], "checkpoint": str(tmp_path)})
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert sorted(assert_same_eigenvalues(ended, 2)) == list(range(16))
    mesh = parallel.data_mesh()
    like = {"sharded": parallel.shard_batch(np.zeros(16, int), mesh), "whole": jnp.zeros(3), "key": jax.random.key(0)}
    restored = Checkpoints(tmp_path).restore(like)
    assert (restored.step, restored.num_rows, restored.skipped) == (5, 2, ())
    assert restored.state["sharded"].sharding == like["sharded"].sharding
    np.testing.assert_array_equal(restored.state["sharded"], np.arange(16))
    np.testing.assert_array_equal(restored.state["whole"], np.arange(3))
    assert restored.state["key"] == jax.random.key(7)


@pytest.mark.parametrize(("name", "process"), [("SIGSTOP", 1), ("SIGKILL", 0)])
def test_a_silent_process_and_a_lost_coordinator_end_the_others(name, process):
    """Nothing closes the connections of a process that hangs: the runtime ends the other by its heartbeats."""
    task = {"signal": [name, process, 3], "heartbeat_timeout": 5, "collectives": 10**6}
    ((code, _, err),) = launch(2, task, awaited=[1 - process])
    assert code != 0
    assert RUNTIME in err or "Gloo" in err
    assert name == "SIGKILL" or re.search(r"unhealthy \(stopped sending heartbeats\):\n1\n", err)


@pytest.mark.slow
def test_two_processes_track_as_one_and_stop_together(tmp_path):
    """One gets SIGTERM: both stop at one step, with a checkpoint there, from which a single device goes on."""
    config = short(tmp_path)
    ended = launch(2, {"signal": ["SIGTERM", 1, 3], "argv": ["track", *flags(config), "--quiet"]})
    assert [code for code, _, _ in ended] == [_report.PREEMPTED] * 2, ended
    step = Checkpoints(config.directory / "checkpoints").steps()[-1]
    assert 3 < step < 400
    said = f"stopped by SIGTERM with a checkpoint at step {step}: cljax resume {config.directory} goes on"
    assert [out.splitlines().count(said) for _, out, _ in ended] == [1, 0]
    rows = read_rows(config.directory)
    assert [row["step"] for row in rows] == list(range(0, step, 2))
    resumed = training.resume(config.directory, num_devices=1, progress=False, stop_after=step + 2)
    assert resumed.rows[: len(rows)] == rows
    assert_same_rows(resumed.rows, one_device(config, tmp_path, step + 2).rows)


@pytest.mark.slow
def test_four_processes_have_the_eigenvalues_of_one():
    """Until one of them is killed, which ends the others."""
    task = {"eigenvalues": ["hessian", "gauss_newton"], "signal": ["SIGKILL", 2, 3], "collectives": 10**6}
    ended = launch(4, task)
    assert sorted(assert_same_eigenvalues(ended, 4)) == list(range(16))
    assert ended[2][0] == -signal.SIGKILL
    assert all(code != 0 for code, _, _ in ended)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on(tmp_path):
    """With one line that says how; two devices of one process go on."""
    config = short(tmp_path)
    ended = launch(2, {"signal": ["SIGKILL", 1, 7], "argv": ["track", *flags(config), "--quiet"]})
    assert [code for code, _, _ in ended] == [cli.LOST, -signal.SIGKILL]
    assert len(re.findall(LOST, ended[0][2])) == 1, ended
    assert "Traceback" not in ended[0][2]
    assert [row["step"] for row in read_rows(config.directory)] == [0, 2, 4, 6]
    resumed = training.resume(config.directory, num_devices=2, progress=False, stop_after=9)
    assert_same_rows(resumed.rows, one_device(config, tmp_path, 9).rows)
    assert read_rows(config.directory) == resumed.rows


@pytest.mark.slow
def test_one_process_is_resumed_by_two(tmp_path):
    """Two processes of two devices each go on with what one device began, and write each file once."""
    config = short(tmp_path, num_steps=8, density_probes=1, max_top=2, track_above=0.01)
    one_device(config, tmp_path, None)
    one = training.RunConfig.load(tmp_path / "one" / "config.json")
    begun = dataclasses.replace(one, run_dir=str(tmp_path / "begun"))
    training.fit(begun, progress=False, stop_after=5)
    ended = launch(2, {"argv": ["resume", str(begun.directory), "--num-devices", "4", "--quiet"]}, devices=2)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert_same_rows(read_rows(begun.directory), read_rows(one.directory))
    written = [re.findall(r"^wrote (.*)$", out, re.MULTILINE) for _, out, _ in ended]
    assert str(begun.directory / "spectrum-8.png") in written[0]
    assert all(pathlib.Path(path).exists() for path in written[0])
    assert written[1] == []


def test_shares_of_batches_make_up_the_whole():
    """On a mesh whose devices are in no order, two to a share: what each device is given are its rows."""
    devices = np.array(jax.devices())[[5, 0, 3, 6, 1, 7, 2, 4]].reshape(4, 2)
    sharding = NamedSharding(Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2), PartitionSpec("data"))
    whole = np.arange(16)
    rows = parallel.own_rows(sharding, 16)
    np.testing.assert_array_equal(rows, whole)
    for shard in parallel.put_rows(whole[rows], sharding).addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    inputs, targets = np.arange(10.0)[:, None], np.arange(10)
    together = Batches(inputs, targets, 6, 0, 4)
    halves = [
        Batches(inputs, targets, 6, 0, 4, rows_fn=lambda n, half=half: np.arange(n)[half::2]) for half in range(2)
    ]
    for step in range(4):
        for half, batches in enumerate(halves):
            expected = jax.tree.map(lambda x, half=half: x[half::2], together(step))
            jax.tree.map(np.testing.assert_array_equal, batches(step), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coordinator": "localhost:1"}, "--coordinator HOST:PORT, --num-processes and --process-id together"),
        ({"coordinator": "localhost", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"coordinator": "localhost:1", "num_processes": 2, "process_id": 2}, "process_id: expected 0 to 1, got 2"),
        ({"heartbeat_timeout": 0}, "heartbeat_timeout: expected"),
    ],
)
def test_wrong_flags_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        parallel.Processes(**options)


def test_a_taken_port_is_told():
    with socket.create_server(("", 0)) as taken:
        where = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"coordinator: expected a free port on this host, got {where}"):
            parallel.initialize(parallel.Processes(coordinator=where, num_processes=2, process_id=0))
