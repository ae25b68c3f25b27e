"""One process of several: float64 eigenvalues, then a command with a signal that it sends itself before a step.

    process_worker.py HOST:PORT NUM ID '{"eigenvalues": true, "signal": ["SIGKILL", 1, 7], "argv": ["track", ...]}'

The signal is sent by one process before it reads the batch of one step: no clock decides anything.
"""

import json
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import cli, curvature, losses, parallel, spectral
from cljax.training import batches


def apply_fn(params, inputs):
    return jnp.tanh(inputs @ params["inner"]) @ params["outer"]


def problem():
    rng = np.random.default_rng(0)
    params = {"inner": rng.standard_normal((3, 4)), "outer": rng.standard_normal((4, 2))}
    return params, cljax.Batch(rng.standard_normal((16, 3)), rng.integers(2, size=16), rng.uniform(size=16))


def eigenvalues(num_devices=None):
    """Of the Hessian and of the Gauss-Newton matrix, from rows of which each process reads its own."""
    with jax.enable_x64(True):
        params, batch = problem()
        mesh = parallel.data_mesh(num_devices)
        rows = parallel.batch_rows(16, mesh)
        batch = parallel.shard_batch(jax.tree.map(lambda x: x[rows], batch), mesh)
        params, key = parallel.replicate((params, jax.random.key(0)), mesh)
        loss = losses.fenchel_young(losses.shannon())
        ops = {
            "hessian": curvature.hessian(losses.objective(apply_fn, loss), params, batch),
            "gauss_newton": curvature.gauss_newton(apply_fn, loss, params, batch),
        }
        found = {"rows": rows.tolist()}
        for name, op in ops.items():
            pairs = spectral.extreme_eigenpairs(op, key, num_top=2, num_bottom=1, tol=1e-12)
            found[name] = parallel.host_values(pairs.values).tolist()
        return found


def send_itself(name, at_step):
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
    }
    name, process, step = task.get("signal", (None, None, None))
    if process == options["process_id"]:
        send_itself(name, step)
    if "eigenvalues" in task:
        parallel.initialize(parallel.Processes(**options))
        print("eigenvalues", json.dumps(eigenvalues()), flush=True)
    flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return cli.main([*task["argv"], *flags])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
