"""Sums over microbatches, for batches too large to be differentiated at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._batch import Batch, split_batch
from cljax._checks import check_positive_int
from cljax._typing import PyTree


def check_microbatch(microbatch_size: int | None, batch: Any) -> int | None:
    """Check a microbatch size against the batch that it divides.

    Args:
        microbatch_size: None or a positive static integer.
        batch: what the operator has for a batch.

    Returns:
        None, or the size as an int.

    Raises:
        TypeError: if the size is no integer or ``batch`` no ``cljax.Batch``.
        ValueError: if the size is below 1, or a weight of the batch is known to be negative.
    """
    if microbatch_size is None:
        return None
    if not isinstance(batch, Batch):
        raise TypeError(
            f"microbatch_size: expected a cljax.Batch as the first argument after params, got {type(batch).__name__}; "
            "wrap inputs and targets as cljax.Batch(inputs, targets)"
        )
    weight = batch.weight
    if weight is not None and not isinstance(weight, jax.core.Tracer):
        # weights on the host must not wait in the device's queue
        least = float((jnp if isinstance(weight, jax.Array) else np).min(weight))
        if least < 0:
            raise ValueError(
                "batch.weight: expected no negative weight with microbatch_size, as a microbatch whose weights cancel "
                f"has no mean, got {least}; use microbatch_size=None"
            )
    return check_positive_int("microbatch_size", microbatch_size)


def scan_microbatches(
    product_fn: Callable[[Batch], PyTree], batch: Batch, microbatch_size: int, like: PyTree
) -> PyTree:
    """Σ_c (W_c / W) product_fn(microbatch c), with W_c the weight of a microbatch and W that of the batch.

    This is exact where ``product_fn`` is a derivative of a weighted mean, whatever the sizes and weights.

    Of a batch that is split over devices, the sum of each microbatch is an all-reduce of its own: to add up first would
    take a whole vector on each device, where parameters are split, and operators that know the mesh of their arrays.

    Args:
        product_fn: maps a ``Batch`` to a pytree like ``like``.
        batch: the whole batch.
        microbatch_size: examples in a microbatch.
        like: pytree of arrays with the shapes and dtypes of the result.

    Returns:
        The weighted sum, accumulated in float32 at least; NaN where all weights are 0.
    """
    zero = tree.to_work(tree.zeros_like(like))
    dtype = jnp.result_type(*jax.tree.leaves(zero))
    parts = split_batch(batch, microbatch_size)
    total = jnp.sum(parts.weight.astype(dtype))

    def body(carry: PyTree, part: Batch) -> tuple[PyTree, None]:
        share = jnp.sum(part.weight.astype(dtype))
        # a microbatch of padding alone would be 0/0: give it weights 1 and the share 0
        weight = jnp.where(share == 0, jnp.ones_like(part.weight), part.weight)
        product = product_fn(Batch(part.inputs, part.targets, weight))
        return tree.axpy(share / total, product, carry), None

    return tree.cast_like(jax.lax.scan(body, zero, parts)[0], like)
