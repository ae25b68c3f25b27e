"""Loss and accuracy over a data set."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._batch import Batch
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.parallel.mesh import num_shares, shard_batch
from cljax.training.batches import padded_batch

_CHUNK = 512


def make_eval_batches(inputs: np.ndarray, targets: np.ndarray, most: int, mesh: Any) -> list[Batch]:
    """The first ``most`` examples on the devices, in batches of equal shape.

    Args:
        inputs: (n, ...).
        targets: (n,).
        most: how many examples at most.
        mesh: the devices.

    Returns:
        Batches, the last one padded with weight 0.
    """
    total = min(most, len(targets))
    shares = num_shares(mesh)
    size = -(-min(_CHUNK, total) // shares) * shares
    starts = range(0, total, size)
    parts = [(inputs[s : min(s + size, total)], targets[s : min(s + size, total)]) for s in starts]
    return [shard_batch(padded_batch(x, y, size), mesh) for x, y in parts]


def evaluate(apply_fn: ApplyFn, loss: LossFn, params: PyTree, batches: list[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K).
        loss: per-example loss.
        params: pytree of floating arrays.
        batches: from ``make_eval_batches``.

    Returns:
        Mean loss, and the share of examples whose greatest score is at the label; NaN scores count as wrong.
    """
    sums = [_sums(apply_fn, loss, params, batch) for batch in batches]
    loss_sum, correct, count = (sum(float(x) for x in column) for column in zip(*sums, strict=True))
    return loss_sum / count, correct / count


@partial(jax.jit, static_argnums=(0, 1))
def _sums(apply_fn: ApplyFn, loss: LossFn, params: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    scores = apply_fn(params, batch.inputs)
    losses = loss(scores, batch.targets)
    correct = (jnp.argmax(scores, axis=-1) == batch.targets) & jnp.all(jnp.isfinite(scores), axis=-1)
    counted = batch.weight > 0
    return (
        jnp.sum(jnp.where(counted, losses, 0)),
        jnp.sum(jnp.where(counted, correct, False)),
        jnp.sum(counted),
    )
