"""Names for the types that cross module boundaries."""

from collections.abc import Callable
from typing import Any

import jax

PyTree = Any
"""Any nest of containers with array leaves."""

Scalar = jax.Array
"""An array of shape ()."""

ApplyFn = Callable[[PyTree, PyTree], jax.Array]
"""``apply_fn(params, inputs) -> scores`` with scores of shape (batch, ..., K)."""

LossFn = Callable[[jax.Array, Any], jax.Array]
"""``loss(scores, targets) -> per-example losses`` of shape ``scores.shape[:-1]``; never reduced."""

Matvec = Callable[[PyTree], PyTree]
"""A linear map on pytrees."""
