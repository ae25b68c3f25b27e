"""Gradient energy: the mean squared norm of per-example gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax._batch import Batch, as_batch, expand_weight, weighted_mean
from cljax._checks import check_inexact_tree
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.base import as_callable_tree, highest_precision
from cljax.curvature.example_jacobian import first_example, read_model
from cljax.curvature.examples import check_chunk, map_examples


def gradient_energy(
    apply_fn: ApplyFn, loss: LossFn, params: PyTree, batch: Batch, *, chunk_size: int | None = None
) -> jax.Array:
    """Σ wᵢ |∇ℓᵢ|² / Σ wᵢ: norms of per-example gradients, not the norm of the batch's gradient.

    A sequence is one example: ℓᵢ is the weighted mean over its tokens, wᵢ the sum of their weights.

    Each example passes through the model as a batch of one, so the model must not couple examples (no batch norm).

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K): hashable, or a callable pytree.
        loss: per-example ``loss(scores, targets) -> (batch, ...)``, never reduced.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        chunk_size: examples worked on at a time; None for as many as fit in 256 MiB.

    Returns:
        A scalar in squared units of the gradient, in float32 at least; NaN where all weights are 0.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or a function is not hashable.
        ValueError: if the batch is empty, the loss is not one an example or token, or ``chunk_size`` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, theory
        >>> batch = cljax.Batch(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [0.0]]))
        >>> loss = losses.fenchel_young(losses.squared())
        >>> theory.gradient_energy(lambda w, x: x @ w, loss, jnp.ones((1, 1)), batch).item()
        8.0

    References:
        arXiv:2608.09523, definition 4.2 (up to its factor 1/(2L)); arXiv:2602.16177 names the quantity.
    """
    check_inexact_tree("params", params)
    batch = as_batch(batch)
    chunk_size = check_chunk(chunk_size)
    return _energy(as_callable_tree("apply_fn", apply_fn), as_callable_tree("loss", loss), params, batch, chunk_size)


@partial(jax.jit, static_argnames="chunk_size")
@highest_precision
def _energy(apply_fn: Any, loss: Any, params: PyTree, batch: Batch, chunk_size: int | None) -> jax.Array:
    losses = jax.eval_shape(lambda p: loss(apply_fn(p, batch.inputs), batch.targets), params)
    if losses.shape[:1] != (batch.num_examples,):
        raise ValueError(
            f"loss: expected one loss an example or token, shape ({batch.num_examples}, ...), got {losses.shape}"
        )
    weight = expand_weight(batch.weight, losses)
    total = jnp.sum(weight, axis=tuple(range(1, weight.ndim)))

    def example_loss(params: PyTree, example: tuple[PyTree, PyTree, jax.Array]) -> jax.Array:
        inputs, targets, weight = jax.tree.map(lambda x: x[None], example)
        # what counts for nothing has no mean: give it weights 1, as its norm is not counted
        weight = jnp.where(jnp.sum(weight) == 0, 1, weight)
        return weighted_mean(loss(apply_fn(params, inputs), targets), weight)[None]

    examples = (batch.inputs, batch.targets, weight)
    model = read_model(example_loss, params, first_example(examples))

    def squared_norm(example: tuple[PyTree, PyTree, jax.Array]) -> jax.Array:
        return model.jacobian(params, example)[1].gram(jnp.ones((1, 1)))[0, 0]

    norms = map_examples(squared_norm, examples, chunk_size, model.num_bytes(1))
    return weighted_mean(norms, total)
