"""One process of several: float64 eigenvalues, then collectives or commands with a signal in mid-run.

    process_worker.py HOST:PORT NUM ID '{"eigenvalues": [{}], "signal": ["SIGKILL", 1, 7], "commands": [["track"]]}'

The signal is sent by one process to itself, before a collective or before the batch of one step: no clock decides.
"""

import json
import os
import pathlib
import signal
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import cli, curvature, losses, parallel, spectral
from cljax.parallel.distributed import leave
from cljax.training import batches
from cljax.training.checkpoint import Checkpoints


def apply_fn(params, inputs):
    return jnp.tanh(inputs @ params["inner"]) @ params["outer"]


def problem():
    rng = np.random.default_rng(0)
    params = {"inner": rng.standard_normal((3, 4)), "outer": rng.standard_normal((4, 2))}
    return params, cljax.Batch(rng.standard_normal((16, 3)), rng.integers(2, size=16), rng.uniform(size=16))


def eigenvalues(names=("hessian",), mesh="data", rules=(), sharded=False, folder=None, size=None):
    """Of the matrices that are named, from rows of which each process reads its own; vectors are checkpointed."""
    with jax.enable_x64(True):
        params, batch = problem()
        mesh = parallel.make_mesh(mesh)
        rows = parallel.batch_rows(16, mesh)
        batch = parallel.shard_batch(jax.tree.map(lambda x: x[rows], batch), mesh)
        params, key = parallel.shard_params(params, mesh, rules), parallel.replicate(jax.random.key(0), mesh)
        loss, memory = losses.fenchel_young(losses.shannon()), spectral.Memory(sharded=sharded)
        ops = {
            "hessian": partial(curvature.hessian, losses.objective(apply_fn, loss), params, batch),
            "gauss_newton": partial(curvature.gauss_newton, apply_fn, loss, params, batch),
        }
        found = {"rows": rows.tolist(), "held": {name: held(x) for name, x in params.items()}}
        for name in names:
            pairs = spectral.extreme_eigenpairs(
                ops[name](microbatch_size=size), key, num_top=2, num_bottom=1, tol=1e-12, memory=memory
            )
            found[name] = parallel.host_values(pairs.values).tolist()
        if jax.process_count() > 1:
            check_refused(ops["hessian"](), key, "checkpoint: expected arrays of one process", driver=LOOP)
            if rules:
                check_refused(ops["hessian"](), key, "memory: expected parameters that are whole", memory=OFFLOAD)
        if folder is not None:
            state = {"params": params, "vectors": pairs.vectors, "key": key}
            Checkpoints(pathlib.Path(folder)).save(5, state, num_rows=2)
        return found


LOOP, OFFLOAD = spectral.HostLoop(checkpoint="never-written.npz"), spectral.Memory(offload=True)


def check_refused(op, key, words, **options):
    """Require an error before anything is multiplied."""
    with pytest.raises(ValueError, match=words):
        spectral.extreme_eigenpairs(op, key, **options)


def held(x):
    """Entries of an array that this process holds."""
    return sum({str(shard.index): shard.data.size for shard in x.addressable_shards}.values())


def send_before(name, at_step):
    """The signal to this process, when a run asks for the batch of a step."""
    original = batches.Batches.__call__

    def call(self, step):
        if step == at_step:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, step)

    batches.Batches.__call__ = call


def main(coordinator, num_processes, process_id, task):
    task = json.loads(task)
    options = {
        "coordinator": coordinator,
        "num_processes": int(num_processes),
        "process_id": int(process_id),
        "heartbeat_timeout": task.get("heartbeat_timeout", 100),
        "initialization_timeout": task.get("initialization_timeout", 300),
    }
    name, process, at_step = task.get("signal", (None, None, None))
    if process == options["process_id"] and "commands" in task:
        send_before(name, at_step)
    if "commands" not in task or "eigenvalues" in task:
        parallel.initialize(parallel.Processes(**options))
    if "eigenvalues" in task:
        print("eigenvalues", json.dumps([eigenvalues(**setting) for setting in task["eigenvalues"]]), flush=True)
    for step in range(task.get("collectives", 0)):
        if (process, at_step) == (options["process_id"], step):
            os.kill(os.getpid(), getattr(signal, name))
        try:
            assert parallel.on_writer(lambda step=step: {"step": step}) == {"step": step}
        except Exception as error:
            if not parallel.is_lost_process(error):
                raise
            print("cljax: error: lost:", error, file=sys.stderr)
            leave(cli.LOST)
    flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return next(filter(None, (cli.main([*command, *flags]) for command in task.get("commands", ()))), 0)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
