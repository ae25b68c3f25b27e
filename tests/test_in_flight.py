"""On CPU devices nothing is left in flight that could stop with what the caller starts next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import cljax
from cljax import curvature, parallel, spectral, training
from cljax._in_flight import landed

KEY = jax.random.key(0)
RUNS = {
    "lanczos": lambda op, driver: spectral.lanczos(op, KEY, 20, driver=driver),
    "extreme_eigenpairs": lambda op, driver: spectral.extreme_eigenpairs(op, KEY, max_products=20, driver=driver),
    "diagonal": lambda op, driver: spectral.diagonal(op, KEY, max_products=20, driver=driver),
    "xdiag": lambda op, driver: spectral.diagonal(op, KEY, method="xdiag", max_products=20, driver=driver),
    "trace": lambda op, driver: spectral.trace(op, KEY, max_products=20, driver=driver),
    "chebyshev_density": lambda op, driver: spectral.chebyshev_density(op, KEY, num_probes=2, degree=9, driver=driver),
    "density": lambda op, driver: spectral.spectral_density(op, KEY, num_probes=2, num_steps=9, driver=driver),
    "log_determinant": lambda op, driver: spectral.log_determinant(op, KEY, num_probes=2, num_steps=9, driver=driver),
    "apply_function": lambda op, driver: spectral.apply_function(op, jnp.abs, op._args[1], 10, driver=driver),
}


def make(n=2**18):
    """A matrix diag(d) + u uᵀ, whose vectors are split over eight devices: each product has a sum over all of them."""
    split = NamedSharding(parallel.data_mesh(8), PartitionSpec("data"))
    d, u = (jax.device_put(x.astype(np.float32), split) for x in (np.linspace(1, 2, n), np.sin(np.arange(n))))
    return curvature.FunctionOperator(lambda v, d, u: d * v + u * (u @ v), d, d, u)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_nothing_is_in_flight(name, driver):
    """Every array of the result is there when the call returns, wherever it lies."""
    op = make()
    RUNS[name](op, driver)  # compiling takes so long that all before is done
    found = RUNS[name](op, driver)
    assert all(x.is_ready() for x in jax.tree.leaves(found) if isinstance(x, jax.Array))


def test_a_stream_waits_for_each_batch(monkeypatch):
    """Beside the waits that keep it from reading far ahead, of which one device has no others."""
    waits, wait = [], jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waits.append(x) or wait(x))
    counts = []
    for num_devices in (1, 8):
        mesh = parallel.data_mesh(num_devices)
        batch = parallel.shard_batch(cljax.Batch(np.ones((16, 4), np.float32), np.zeros(16, np.float32)), mesh)
        w = jax.device_put(jnp.ones(4), NamedSharding(mesh, PartitionSpec()))
        op = curvature.streamed(lambda batch, w=w: curvature.hessian(least_squares, w, batch), [batch] * 6)
        waits.clear()
        op @ w
        counts.append(len(waits))
    assert counts[1] - counts[0] == 6 + 1  # and for the mean


def least_squares(w, batch):
    return jnp.mean((batch.inputs @ w - batch.targets) ** 2)


def test_nothing_of_a_measurement_is_in_flight():
    split = NamedSharding(parallel.data_mesh(8), PartitionSpec("data"))
    d, w = (jax.device_put(x.astype(np.float32), split) for x in (np.linspace(1, 2, 2**20), np.ones(2**20)))
    tracker = training.Tracker.from_objective(lambda w, d: jnp.sum(d * w**2) / 2, max_products=8)
    state, _ = tracker.measure(tracker.init(w), w, d, KEY)
    state, _ = tracker.measure(state, w, d, KEY)
    assert all(x.is_ready() for x in jax.tree.leaves(state.hessian))


def test_traced_values_pass():
    assert jax.jit(lambda x: landed({"x": x, "n": 3}))(jnp.ones(2))["x"].tolist() == [1, 1]
