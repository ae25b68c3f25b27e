"""The optimizer of a run: SGD with momentum, weight decay and a schedule, from Optax."""

import optax

from cljax.training.config import RunConfig


def learning_rate_schedule(config: RunConfig) -> optax.Schedule:
    """Step size as a function of the step: linear warm-up, then cosine to 0 or constant.

    Args:
        config: the run.

    Returns:
        ``schedule(step) -> learning rate``.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, config.num_steps - warmup)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: RunConfig) -> optax.GradientTransformation:
    """SGD as the papers use it.

    Args:
        config: the run.

    Returns:
        An Optax transformation: decay added to the gradient, then momentum, then the schedule.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate_schedule(config), momentum=config.momentum or None),
    )
