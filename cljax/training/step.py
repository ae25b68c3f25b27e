"""One pure training step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cljax import tree
from cljax._batch import Batch
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.losses.objective import Objective


@pytree_dataclass
class TrainState:
    """What training carries from step to step; a pytree, so that it checkpoints.

    Attributes:
        params: pytree of floating arrays.
        opt_state: state of the optimizer.
        step: int32 scalar, updates taken.
        loss: scalar, loss of the last batch, before its update.
        bad_step: int32 scalar, the first step whose loss or gradient was not finite, or −1; from there on nothing
            changes any more.
    """

    params: PyTree
    opt_state: PyTree
    step: jax.Array
    loss: jax.Array
    bad_step: jax.Array


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step.

    Args:
        params: pytree of floating arrays.
        optimizer: Optax transformation.

    Returns:
        The state.
    """
    return TrainState(
        params, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.full((), -1, jnp.int32)
    )


def train_step(
    state: TrainState, batch: Batch, *, objective: Objective, optimizer: optax.GradientTransformation
) -> TrainState:
    """One update; pure, to be jitted by the caller with objective and optimizer static.

    Args:
        state: before the step.
        batch: examples with weights.
        objective: ``objective(params, batch) -> scalar``.
        optimizer: Optax transformation.

    Returns:
        The state after the step. Where loss or gradient is not finite, the old parameters and optimizer state, and
        ``bad_step`` set.
    """
    loss, gradient = jax.value_and_grad(objective)(state.params, batch)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    good = jnp.isfinite(loss) & jnp.isfinite(tree.norm(gradient)) & (state.bad_step < 0)

    def choose(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

    return TrainState(
        choose(params, state.params),
        choose(opt_state, state.opt_state),
        state.step + good.astype(jnp.int32),
        jnp.where(state.bad_step < 0, loss.astype(state.loss.dtype), state.loss),
        jnp.where((state.bad_step < 0) & ~good, state.step, state.bad_step),
    )
