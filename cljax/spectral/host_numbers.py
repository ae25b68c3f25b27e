"""The numbers of a Krylov state, moved to the host: there a look or the end of a run compiles nothing."""

import dataclasses
from typing import Any

import jax
import numpy as np

from cljax.spectral.krylov import KrylovState

_ARRAYS = ("guess", "used", "num_products", "num_breakdowns", "asymmetry")


def lies_near(state: KrylovState) -> bool:
    """Whether a run lies where NumPy works on its numbers without a copy: on one CPU device, and not traced."""
    leaf = jax.tree.leaves(state.vector)[0]
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return False
    return [device.platform for device in leaf.devices()] == ["cpu"]


def numbers_on_host(state: KrylovState) -> KrylovState:
    """The numbers of a state in NumPy's arrays, as far as they are filled.

    Args:
        state: after at least one step.

    Returns:
        The state without the basis; capacity is used + width.
    """
    found: dict[str, Any] = {name: np.asarray(getattr(state, name))[()] for name in _ARRAYS}
    filled = int(found["used"]) + state.width
    found["matrix"] = np.asarray(state.matrix)[:filled, :filled]
    found["rounding"] = np.asarray(state.rounding)[:filled]
    return dataclasses.replace(state, basis=None, **found)
