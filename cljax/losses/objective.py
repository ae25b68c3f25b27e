"""The objective of training, as one hashable function of parameters and batch."""

import dataclasses

import jax

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
        """
        batch = without_masked_targets(batch)
        return weighted_mean(self.loss(self.apply_fn(params, batch.inputs), batch.targets), batch.weight)


def objective(apply_fn: ApplyFn, loss: LossFn) -> Objective:
    """The weighted mean of a per-example loss of a model, as ``objective_fn(params, batch)``.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K).
        loss: ``loss(scores, targets) -> losses`` of shape (batch, ...), never reduced.

    Returns:
        A hashable function of ``params`` and a ``cljax.Batch`` to a scalar.

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
