"""The numbers of a Krylov state, moved to the host: there a look or the end of a run compiles nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from cljax._quick import quick_jit
from cljax.spectral.krylov import KrylovState

_ARRAYS = ("guess", "used", "num_products", "num_breakdowns", "asymmetry")


def lies_near(state: KrylovState) -> bool:
    """Whether a run lies where NumPy works on its numbers without a copy: on one CPU device, in no mesh, not traced."""
    leaf = jax.tree.leaves(state.vector)[0]
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return False
    return isinstance(leaf.sharding, SingleDeviceSharding) and next(iter(leaf.devices())).platform == "cpu"


def numbers_on_host(state: KrylovState) -> KrylovState:
    """The numbers of a state in NumPy's arrays, as far as they are filled.

    Args:
        state: after at least one step.

    Returns:
        The state without the basis; capacity is used + width. The arrays show the device's memory, so they are good
        until the state is handed on to the next step.
    """
    found: dict[str, Any] = {name: np.asarray(getattr(state, name))[()] for name in _ARRAYS}
    filled = int(found["used"]) + state.width
    found["matrix"] = np.asarray(state.matrix)[:filled, :filled]
    found["rounding"] = np.asarray(state.rounding)[:filled]
    return dataclasses.replace(state, basis=None, **found)


def on_device_of(state: KrylovState, numbers: Any) -> Any:
    """What was found on the host, on the device of a state, and bound to it as far as the state is."""
    if isinstance(state.used, jax.Array):
        return _beside(numbers, state.used)
    return jax.tree.map(jnp.asarray, numbers)


_beside = quick_jit(lambda numbers, _: numbers, keep_unused=True)
