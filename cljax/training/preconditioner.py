"""The diagonal by which an adaptive Optax optimizer divides its updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cljax import tree
from cljax._typing import PyTree


@dataclasses.dataclass(frozen=True)
class _Moment:
    """Where a state keeps its second moment, and how Optax makes the divisor of it unless told otherwise.

    An ``eps_root`` of None says that the moment has it already.
    """

    field: str
    corrects_bias: bool = False
    eps: float = 1e-8
    eps_root: float | None = 0.0
    eps_in_sqrt: bool = False
    b2: float = 0.999


# by name: not all of these classes are exported
_MOMENTS = {
    "ScaleByAdamState": _Moment("nu", corrects_bias=True),
    "ScaleByBeliefState": _Moment("nu", corrects_bias=True, eps=1e-16, eps_root=None),
    "ScaleByAmsgradState": _Moment("nu_max"),
    "ScaleByRmsState": _Moment("nu", eps_in_sqrt=True, b2=0.9),
    "ScaleByRmsWithCountState": _Moment("nu", corrects_bias=True, eps_in_sqrt=True, b2=0.9),
    "ScaleByRssState": _Moment("sum_of_squares", eps=1e-7, eps_in_sqrt=True),
}


def preconditioner(
    opt_state: PyTree,
    *,
    b2: float | None = None,
    eps: float | None = None,
    eps_root: float | None = None,
    eps_in_sqrt: bool | None = None,
) -> PyTree:
    """The diagonal P of an adaptive optimizer, whose update is −lr P⁻¹ m with m the momentum or the gradient.

    After an update it is the P of that update. The state does not hold the settings: where they are None, those that
    ``optax.inject_hyperparams`` keeps are taken, else Optax's defaults of the transformation. Adamax keeps its state
    in Adam's class and is taken for Adam, wrongly; Yogi's eps is 1e-3.

    Args:
        opt_state: state of ``optax.adam``, ``adamw``, ``nadam``, ``amsgrad``, ``adabelief``, ``rmsprop`` (not
            centered), ``adagrad`` or of what is made of them, however chained, masked, wrapped or injected.
        b2: decay of the second moment, of which the bias correction follows.
        eps: is added to the root, or inside of it where ``eps_in_sqrt``.
        eps_root: is added inside of the root; AdaBelief's state has it already.
        eps_in_sqrt: where ``eps`` stands; by default as Optax has it, inside for RMSProp and Adagrad.

    Returns:
        A pytree of the containers of the parameters with positive entries, in float32 at least, and a scalar 1 for
        leaves that a mask keeps from the optimizer: for ``curvature.precondition``.

    Raises:
        ValueError: if the state has no second moment, or several, or no update has been made.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from cljax import training
        >>> optimizer, params = optax.adam(0.1, eps=0.0), jnp.zeros(2)
        >>> updates, state = optimizer.update(jnp.array([3.0, -4.0]), optimizer.init(params))
        >>> [round(x, 3) for x in training.preconditioner(state, eps=0.0).tolist()]
        [3.0, 4.0]

    References:
        Kingma and Ba, Adam, arXiv:1412.6980, algorithm 1.
    """
    found = _find(opt_state, {})
    if len(found) != 1:
        names = sorted(type(state).__name__ for state, _ in found)
        raise ValueError(
            f"opt_state: expected one state with a second moment, of {sorted(_MOMENTS)}, got {names or 'none'}; pass "
            "the part that is meant, or give curvature.precondition a diagonal of your own"
        )
    state, injected = found[0]
    rule = _MOMENTS[type(state).__name__]
    decay = _first(b2, injected.get("b2"), injected.get("decay"), rule.b2)
    eps = _first(eps, injected.get("eps"), rule.eps)
    eps_root = 0.0 if rule.eps_root is None else _first(eps_root, injected.get("eps_root"), rule.eps_root)
    moment = getattr(state, rule.field)
    correction = 1.0
    if rule.corrects_bias:
        count = state.count
        if not isinstance(count, jax.core.Tracer) and int(count) == 0:
            raise ValueError("opt_state: expected the state after at least one update, got a count of 0")
        correction = 1 - jnp.asarray(decay) ** count

    def divisor(x: Any) -> jax.Array:
        if isinstance(x, optax.MaskedNode):
            return jnp.ones(())
        x = x.astype(tree.work_dtype(x.dtype)) / correction
        return jnp.sqrt(x + eps_root + eps) if _first(eps_in_sqrt, rule.eps_in_sqrt) else jnp.sqrt(x + eps_root) + eps

    return jax.tree.map(divisor, moment, is_leaf=lambda x: isinstance(x, optax.MaskedNode))


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _find(state: PyTree, injected: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """All states with a second moment, each with the settings that its innermost injecting wrapper keeps."""
    if type(state).__name__ in _MOMENTS:
        return [(state, injected)]
    injected = getattr(state, "hyperparams", injected)
    children = jax.tree.leaves(state, is_leaf=lambda x: x is not state)
    if len(children) == 1 and children[0] is state:
        return []
    return [found for child in children for found in _find(child, injected)]
