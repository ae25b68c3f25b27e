"""Loss and accuracy over a data set."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._batch import Batch, expand_weight
from cljax._in_flight import landed
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.parallel.mesh import batch_rows, num_shares, shard_batch
from cljax.training.batches import padded_batch

_CHUNK, _CHUNK_TOKENS = 512, 8192


def make_eval_batches(
    inputs: np.ndarray, targets: np.ndarray, most: int, mesh: Any, weight: np.ndarray | None = None
) -> list[Batch]:
    """The first ``most`` examples on the devices, in batches of equal shape.

    Args:
        inputs: (n, ...).
        targets: (n,), or (n, T) for sequences.
        most: how many examples at most.
        mesh: the devices.
        weight: None for all ones, or a leading part of the losses' shape.

    Returns:
        Batches, the last one padded with weight 0.
    """
    total = min(most, len(targets))
    chunk = min(_CHUNK, max(1, _CHUNK_TOKENS // targets[0].size))
    shares = num_shares(mesh)
    size = -(-min(chunk, total) // shares) * shares
    parts = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    rows_fn = partial(batch_rows, mesh=mesh)

    def batch(part: slice) -> Batch:
        part_weight = None if weight is None else weight[part]
        return shard_batch(padded_batch(inputs[part], targets[part], size, part_weight, rows_fn), mesh)

    return [batch(part) for part in parts]


def evaluate(apply_fn: ApplyFn, loss: LossFn, params: PyTree, batches: list[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy, of examples or of the tokens of sequences, weighted.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K).
        loss: per-example loss.
        params: pytree of floating arrays.
        batches: from ``make_eval_batches``.

    Returns:
        Mean loss, and the share of examples or tokens whose greatest score is at the label; NaN scores count as wrong.
    """
    sums = [landed(_sums(apply_fn, loss, params, batch)) for batch in batches]
    loss_sum, correct, count = (sum(float(x) for x in column) for column in zip(*sums, strict=True))
    return loss_sum / count, correct / count


@partial(jax.jit, static_argnums=(0, 1))
def _sums(apply_fn: ApplyFn, loss: LossFn, params: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    scores = apply_fn(params, batch.inputs)
    losses = loss(scores, batch.targets)
    correct = (jnp.argmax(scores, axis=-1) == batch.targets) & jnp.all(jnp.isfinite(scores), axis=-1)
    weight = expand_weight(batch.weight, losses)
    return jnp.sum(jnp.where(weight == 0, 0, weight * losses)), jnp.sum(weight * correct), jnp.sum(weight)
