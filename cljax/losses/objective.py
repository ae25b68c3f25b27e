"""The objective of training, as one hashable function of parameters and batch."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax._batch import Batch, weighted_mean, without_masked_targets
from cljax._typing import ApplyFn, LossFn, PyTree


@dataclasses.dataclass(frozen=True)
class Objective:
    """Σ wᵢ ℓ(apply_fn(params, inputs)ᵢ, targetsᵢ) / Σ wᵢ; equal by value, so that jit does not retrace.

    Attributes:
        apply_fn: ``apply_fn(params, inputs) -> scores``.
        loss: per-example ``loss(scores, targets)``.
    """

    apply_fn: ApplyFn
    loss: LossFn

    def __call__(self, params: PyTree, batch: Batch) -> jax.Array:
        """The weighted mean loss: a scalar.

        Args:
            params: pytree of floating arrays.
            batch: inputs, targets and weights.

        Returns:
            A scalar; NaN where all weights are 0.

        Raises:
            ValueError: if the loss is reduced over the examples, or the weights' shape is no leading part of its shape.
        """
        batch = without_masked_targets(batch)
        losses = self.loss(self.apply_fn(params, batch.inputs), batch.targets)
        lengths = [jnp.shape(leaf)[0] for leaf in jax.tree.leaves((batch.inputs, batch.targets)) if jnp.ndim(leaf)]
        num = min(lengths, default=1)
        kept = jnp.ndim(losses) > 0 and (jnp.size(losses) > 1 or num <= 1)
        check_per_example(kept, losses, f"{num} examples")
        return weighted_mean(losses, batch.weight)


def check_per_example(kept: bool, losses: jax.Array | jax.ShapeDtypeStruct, given: str) -> None:
    """Require a loss that keeps the examples apart.

    Args:
        kept: whether it does, by its shape.
        losses: what the loss gave, or its shape and dtype, for the message.
        given: what it gave that for, in words.

    Raises:
        ValueError: if it does not.
    """
    if not kept:
        raise ValueError(
            f"loss: expected one number for each example, shape (batch, ...), got shape {jnp.shape(losses)} for "
            f"{given}; the loss must not be reduced: leave the mean over the batch out of it"
        )


def objective(apply_fn: ApplyFn, loss: LossFn) -> Objective:
    """The weighted mean of a per-example loss of a model, as ``objective_fn(params, batch)``.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K).
        loss: ``loss(scores, targets) -> losses`` of shape (batch, ...), never reduced.

    Returns:
        A hashable function of ``params`` and a ``cljax.Batch`` to a scalar.

    Raises:
        ValueError: at the first call, if the loss is reduced or shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses
        >>> mean_loss = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
        >>> batch = cljax.Batch(jnp.eye(2), jnp.array([[2.0], [0.0]]))
        >>> mean_loss(jnp.zeros((2, 1)), batch).item()
        1.0
    """
    return Objective(apply_fn, loss)
