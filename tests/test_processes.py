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
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cljax import _report, cli, losses, parallel, training, tree
from cljax.curvature import hessian
from cljax.training.batches import Batches
from cljax.training.bounds import run_bounds
from cljax.training.checkpoint import Checkpoints
from cljax.training.run import make_run
from cljax.training.spectrum import checkpoint_spectrum
from tests.flags import COMPILE_FAST
from tests.problems import SHANNON
from tests.process_worker import apply_fn, eigenvalues, problem
from tests.runs import assert_close, flags, read_rows, tiny

ROOT = pathlib.Path(__file__).parent.parent
GUARD = 240
"""Seconds after which a test that hangs fails."""
ENDED = "killed, or ended by the runtime because another process was lost"
LOST = r"^cljax: error: process \d of 2: .*; cljax resume .* goes on from step 4, with as many .*$"
RUNTIME = "Terminating process because the JAX distributed service detected fatal errors"


def launch(num_processes, task, devices=1, awaited=None, absent=()):
    """Run processes but those absent to their ends: (exit code, stdout, stderr) of those awaited, of all where None."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    xla = f"--xla_force_host_platform_device_count={devices} {COMPILE_FAST}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}
    command = [sys.executable, "-m", "tests.process_worker", coordinator, str(num_processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = {
        index: subprocess.Popen([*command, str(index), json.dumps(task)], env=environment, cwd=ROOT, **pipes)
        for index in range(num_processes)
        if index not in absent
    }
    try:
        ended = []
        for index in started if awaited is None else awaited:
            out, err = started[index].communicate(timeout=GUARD)
            ended.append((started[index].returncode, out, err))
        return ended
    finally:
        for process in started.values():
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


def assert_same_eigenvalues(ended, num_processes, *settings):
    """Float64 sums of 16 rows in another order, pairs converged to 1e-12."""
    shares = [json.loads(re.search(r"^eigenvalues (.*)$", out, re.MULTILINE)[1]) for _, out, _ in ended]
    for number, setting in enumerate(settings):
        names = setting.get("names", ["hessian"])
        expected = eigenvalues(names, "data=1")
        for share in shares:
            for name in names:
                scale = np.abs(expected[name]).max()
                np.testing.assert_allclose(share[number][name], expected[name], rtol=1e-10, atol=1e-10 * scale)
    return shares


def rows_read(shares):
    return sorted(row for share in shares for row in share[0]["rows"])


def one_device(config, folder, stop_after):
    alone = dataclasses.replace(config, num_devices=1, mesh=None, shard=(), run_dir=str(folder / "one"))
    return training.fit(alone, progress=False, stop_after=stop_after)


SPLIT = [
    {"mesh": "data=2,model=2", "rules": ["inner=,data+model", "outer=data,model"]},
    {"mesh": "data=4", "sharded": True, "size": 6},
]


def test_two_processes_have_the_eigenvalues_of_one(tmp_path):
    """With no parameter, or no vector, whole in any, the latter by microbatches; and write checkpoints.

    Eight devices of one process read them.
    """
    settings = [{**setting, "folder": str(tmp_path / str(number))} for number, setting in enumerate(SPLIT)]
    ended = launch(2, {"eigenvalues": settings}, devices=2)
    assert [code for code, _, _ in ended] == [0, 0], ended
    shares = assert_same_eigenvalues(ended, 2, *settings)
    assert rows_read(shares) == list(range(16))
    assert [len(share[0]["rows"]) for share in shares] == [8, 8]
    split, whole = ({"inner": 12 // n, "outer": 8 // n} for n in (2, 1))
    assert [[one["held"] for one in share] for share in shares] == [[split, whole]] * 2
    with jax.enable_x64(True):
        mesh = parallel.make_mesh("data=4,model=2")
        params, batch = problem()
        placed = parallel.shard_params(params, mesh, ["inner=,model", "outer=data,model"])
        key = parallel.replicate(jax.random.key(0), mesh)
        op = hessian(losses.objective(apply_fn, SHANNON), placed, parallel.shard_batch(batch, mesh))
        for number in range(len(SPLIT)):
            like = {"params": placed, "vectors": {name: vectors_on(mesh, x) for name, x in placed.items()}, "key": key}
            restored = Checkpoints(tmp_path / str(number)).restore(like)
            assert (restored.step, restored.num_rows, restored.skipped) == (5, 2, ())
            assert [x.sharding for x in jax.tree.leaves(restored.state)] == [x.sharding for x in jax.tree.leaves(like)]
            assert restored.state["key"] == like["key"]
            jax.tree.map(np.testing.assert_array_equal, restored.state["params"], params)
            quotients = jax.vmap(lambda v: tree.vdot(v, op @ v))(restored.state["vectors"])
            np.testing.assert_allclose(quotients, shares[0][number]["hessian"], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_measure_the_spectrum_of_a_run(tmp_path):
    """By microbatches, on the mesh that the flags name, with parts of each kernel in both; one of them writes."""
    options = {"mesh": "data=4,model=2", "shard": ("kernel=,model",), "max_products": 6, "microbatch_size": 10}
    config = short(tmp_path, model_option=("hidden=()",), **options)
    Checkpoints(config.directory / "checkpoints").save(3, make_run(config)[1], 1)
    config.save(config.directory / "config.json")
    command = ["spectrum", str(config.directory), "--num-probes", "1", "--num-steps", "4"]
    ended = launch(2, {"commands": [[*command, "--mesh", "data=2,model=2"]]}, devices=2)
    assert [code for code, _, _ in ended] == [0, 0], ended
    path = config.directory / "spectrum-3.json"
    assert [out.count(f"wrote {path}\n") for _, out, _ in ended] == [1, 0]
    found = json.loads(path.read_text())
    checkpoint_spectrum(config.directory, num_probes=1, num_steps=4, num_devices=1, mesh="data=1,model=1")
    assert_close(found, json.loads(path.read_text()))


def vectors_on(mesh, x):
    """A place for three vectors like a parameter."""
    return jax.device_put(np.zeros((3, *x.shape)), NamedSharding(mesh, PartitionSpec(None, *x.sharding.spec)))


@pytest.mark.parametrize(("name", "process"), [("SIGSTOP", 1), ("SIGSTOP", 0), ("SIGKILL", 0)])
def test_a_silent_process_and_a_lost_coordinator_end_the_others(name, process):
    """Nothing closes the connections of a process that hangs: by its heartbeats the runtime aborts the other."""
    task = {"signal": [name, process, 3], "heartbeat_timeout": 5, "collectives": 10**6}
    ((code, _, err),) = launch(2, task, awaited=[1 - process])
    (said,) = re.findall(r"^cljax: error: .*$", err, re.MULTILINE)
    if name == "SIGSTOP" or code != cli.LOST:
        assert code == -signal.SIGABRT
        assert said == f"cljax: error: process {1 - process} of 2: {ENDED}; start all of them anew"
        assert err.index(RUNTIME) < err.index(said)


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_never_comes_ends_the_others(process):
    ((code, _, err),) = launch(2, {"initialization_timeout": 3}, awaited=[process], absent=[1 - process])
    assert code == cli.LOST
    assert re.fullmatch(
        r"cljax: error: processes: expected all of them at localhost:\d+ within 3 s; see that each was started and "
        r"reaches it, or give more --initialization-timeout\n",
        err,
    )


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_track_as_one_and_stop_together(tmp_path):
    """With parts of each parameter. One gets SIGTERM: both stop at one step, from which a single device goes on."""
    config = short(tmp_path, mesh="data=2,model=2", shard=("kernel=data,model", "bias=data"))
    ended = launch(2, {"signal": ["SIGTERM", 1, 3], "commands": [["track", *flags(config), "--quiet"]]}, devices=2)
    assert [code for code, _, _ in ended] == [_report.PREEMPTED] * 2, ended
    step = Checkpoints(config.directory / "checkpoints").steps()[-1]
    assert 3 < step < 400
    said = f"stopped by SIGTERM with a checkpoint at step {step}: cljax resume {config.directory} goes on"
    assert [out.splitlines().count(said) for _, out, _ in ended] == [1, 0]
    rows = read_rows(config.directory)
    assert [row["step"] for row in rows] == list(range(0, step, 2))
    one = {"num_devices": 1, "mesh": "data=1,model=1"}
    resumed = training.resume(config.directory, **one, progress=False, stop_after=step + 2)
    assert resumed.rows[: len(rows)] == rows
    assert_same_rows(resumed.rows, one_device(config, tmp_path, step + 2).rows)


@pytest.mark.slow
@pytest.mark.long
def test_four_processes_have_the_eigenvalues_of_one():
    """Until one of them is killed, which ends the others."""
    setting = {"names": ["hessian", "gauss_newton"]}
    task = {"eigenvalues": [setting], "signal": ["SIGKILL", 2, 3], "collectives": 10**6}
    ended = launch(4, task)
    assert rows_read(assert_same_eigenvalues(ended, 4, setting)) == list(range(16))
    assert ended[2][0] == -signal.SIGKILL
    assert all(code != 0 for code, _, _ in ended)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("process", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(process, tmp_path):
    """With one line that says how; two devices of one process go on."""
    config = short(tmp_path)
    ended = launch(2, {"signal": ["SIGKILL", process, 7], "commands": [["track", *flags(config), "--quiet"]]})
    code, _, err = ended[1 - process]
    assert ended[process][0] == -signal.SIGKILL
    assert code == cli.LOST or (process == 0 and code == -signal.SIGABRT and RUNTIME in err)
    assert len(re.findall(LOST, err, re.MULTILINE)) == err.count("cljax: error:") == 1, ended
    assert "Traceback" not in err
    assert [row["step"] for row in read_rows(config.directory)] == [0, 2, 4, 6]
    resumed = training.resume(config.directory, num_devices=2, progress=False, stop_after=9)
    assert_same_rows(resumed.rows, one_device(config, tmp_path, 9).rows)
    assert read_rows(config.directory) == resumed.rows


@pytest.mark.slow
@pytest.mark.long
def test_one_process_is_resumed_by_two(tmp_path):
    """Two processes of two devices each go on with what one device began, split over all, and write each file once."""
    config = short(tmp_path, num_steps=8, density_probes=1, max_top=2, track_above=0.01)
    one_device(config, tmp_path, None)
    one = training.RunConfig.load(tmp_path / "one" / "config.json")
    shard = ("hidden_0/kernel=,model", "hidden_0/bias=model", "kernel=model")
    begun = dataclasses.replace(one, mesh="data=1,model", shard=shard, run_dir=str(tmp_path / "begun"))
    training.fit(begun, progress=False, stop_after=5)
    folder = str(begun.directory)
    commands = [["resume", folder, "--num-devices", "4", "--quiet"], ["bounds", folder, "--num-examples", "16"]]
    ended = launch(2, {"commands": commands}, devices=2)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert_same_rows(read_rows(begun.directory), read_rows(one.directory))
    written = [re.findall(r"^wrote (.*)$", out, re.MULTILINE) for _, out, _ in ended]
    assert str(begun.directory / "spectrum-8.png") in written[0]
    assert all(pathlib.Path(path).exists() for path in written[0])
    assert str(begun.directory / "bounds.png") in written[0]
    assert written[1] == []
    checkpoint_spectrum(one.directory)
    run_bounds(one.directory, num_examples=16)
    for name in ("spectrum-8.json", "bounds.json"):
        assert_close(*(json.loads((run.directory / name).read_text()) for run in (begun, one)))


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
