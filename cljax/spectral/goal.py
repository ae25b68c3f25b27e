"""When a search for extreme eigenpairs is done, and where its next product goes."""

import jax
import jax.numpy as jnp

from cljax._pytree import pytree_dataclass, static
from cljax.spectral.krylov import KrylovState, dimension, krylov_turn
from cljax.spectral.ritz import RitzPairs, ritz_pairs

CRITERIA = ("residual", "value")
COLD_TOL = 1e-6
"""Relative residual that a cold run is carried on to, whatever its tolerance: a random start may hide a more extreme
pair behind a converged one with a probability of the order of the residual."""
JUMP = 0.8
"""Change of a kept pair, in norms of the operator, above which a warm start is taken for a cold one."""
GUARD_SHARE, CHECK_SHARE = 0.5, 0.25
"""Norms of a guard and of the check direction in the products after the kept vectors', against 1 of what those lack."""
FOLLOW = 2
"""A warm run goes on for a guard that may yet become more extreme for at most this many times ``min_steps``."""


@pytree_dataclass
class Goal:
    """The pairs that a run looks for.

    Attributes:
        tol: scalar, relative tolerance.
        previous: (k,), values of the kept vectors that the run starts from, bottom ones first.
        warm: scalar bool, whether it starts from kept vectors: then they are multiplied first, and ``criterion``
            "value" may end the run.
        num_top: greatest eigenvalues wanted.
        num_bottom: least eigenvalues wanted.
        criterion: "residual" or "value": which error must be below the tolerance.
        kept: scalar bool, whether any of the start vectors is from before: no more extreme pair is hidden as far as
            these and the check direction show, unless the spectrum has jumped.
        num_guards: kept vectors beside the wanted ones; the pending vector behind them is the check direction.
        num_cold: random vectors that a cold run multiplies first.
        certify: whether a cold run is carried on until hardly a more extreme pair is hidden.
    """

    tol: jax.Array
    previous: jax.Array
    warm: jax.Array
    kept: jax.Array
    num_top: int = static()
    num_bottom: int = static()
    criterion: str = static(default="residual")
    num_guards: int = static(default=0)
    num_cold: int = static(default=1)
    certify: bool = static(default=True)

    @property
    def num_pairs(self) -> int:
        """Pairs wanted, k."""
        return self.num_top + self.num_bottom


def look(state: KrylovState, goal: Goal, jumped: jax.Array) -> tuple[KrylovState, jax.Array, jax.Array]:
    """Judge a run, and turn its pending vectors so that the next product goes where it is needed most.

    Args:
        state: after at least one step.
        goal: what is looked for.
        jumped: scalar bool, whether an earlier look found that the spectrum has jumped since the kept vectors.

    Returns:
        The state with another first pending vector, whether the spectrum has jumped, and whether the run is done: all
        pairs below the tolerance after enough products, or nothing finite left.
    """
    pairs = ritz_pairs(state, goal.num_top, goal.num_bottom)
    at_kept = goal.warm & (state.num_products == goal.num_pairs)
    scale = jnp.maximum(pairs.norm, jnp.max(jnp.abs(goal.previous)))
    change = jnp.maximum(pairs.residual_norms, jnp.abs(pairs.values - goal.previous))
    jumped |= at_kept & jnp.any(change > JUMP * scale)
    trusted = goal.warm & ~jumped
    ratios = error_ratios(pairs, goal, trusted)
    if goal.certify:
        ratios = jnp.maximum(ratios, hidden_ratios(pairs, goal, trusted))
    follow = trusted & (state.num_products < FOLLOW * min_steps(goal.num_pairs))
    ratios = jnp.concatenate([ratios, jnp.where(follow, guard_ratios(pairs, goal), 0)])
    quick = trusted if goal.criterion == "value" else jnp.array(False)
    least = jnp.where(quick, checked(goal), min_steps(goal.num_pairs))
    enough = (state.num_products >= least) | (state.used >= dimension(state))
    done = (enough & jnp.all(ratios <= 1)) | ~jnp.isfinite(pairs.norm)
    return _turn(state, goal, jumped, pairs, ratios), jumped, done


def error_ratios(pairs: RitzPairs, goal: Goal, trusted: jax.Array) -> jax.Array:
    """The errors that the criterion names, in units of what counts as converged: (k,).

    Args:
        pairs: the pairs.
        goal: what is looked for.
        trusted: scalar bool, whether the run started from kept vectors and the spectrum has not jumped.

    Returns:
        At most 1 where they are small enough.
    """
    errors = pairs.residual_norms
    if goal.criterion == "value":
        errors = jnp.where(trusted | (not goal.certify), pairs.value_errors, errors)
    return _ratios(errors, residual_bound(pairs.values, pairs.norm, goal.tol))


def hidden_ratios(pairs: RitzPairs, goal: Goal, trusted: jax.Array) -> jax.Array:
    """How far residuals are from what makes it improbable that a random start hides a more extreme pair: (k,).

    Args:
        pairs: the pairs.
        goal: what is looked for.
        trusted: as for ``error_ratios``; then nothing is asked for.

    Returns:
        At most 1 where they are small enough.
    """
    enough = residual_bound(pairs.values, pairs.norm, jnp.minimum(goal.tol, COLD_TOL))
    # vectors stored in bfloat16 allow no less than about their rounding
    return jnp.where(trusted, 0, _ratios(pairs.residual_norms, jnp.maximum(enough, 2 * pairs.roundings)))


def guard_ratios(pairs: RitzPairs, goal: Goal) -> jax.Array:
    """Whether the pairs next inwards may turn out to be more extreme than the wanted ones: (g,).

    Args:
        pairs: the pairs.
        goal: what is looked for.

    Returns:
        At most 1 where not.
    """
    ends = [goal.num_bottom - 1] * (goal.num_bottom > 0) + [goal.num_bottom] * (goal.num_top > 0)
    signs = jnp.array([-1] * (goal.num_bottom > 0) + [1] * (goal.num_top > 0), pairs.values.dtype)
    inmost = pairs.values[jnp.array(ends)]
    return jnp.where(signs * (pairs.guard_bounds - inmost) > goal.tol * jnp.abs(inmost), 2, 0)


def checked(goal: Goal) -> int:
    """Products of a warm run after which the kept vectors and, for each end, a check direction are multiplied."""
    return goal.num_pairs + max(goal.num_guards, 1)


def _ratios(errors: jax.Array, bounds: jax.Array) -> jax.Array:
    # of the zero operator both are 0
    return jnp.where(errors == 0, 0, errors / jnp.where(bounds > 0, bounds, 1))


def _turn(state: KrylovState, goal: Goal, jumped: jax.Array, pairs: RitzPairs, ratios: jax.Array) -> KrylovState:
    if state.width == 1:
        return state
    target = jnp.argmax(jnp.where(jnp.isnan(ratios), -1, ratios))
    all_values = jnp.concatenate([pairs.values, pairs.guard_values])
    all_coefficients = jnp.concatenate([pairs.coefficients, pairs.guard_coefficients])
    settled = jnp.all(ratios <= 1)  # then what is left of the least products goes where least is known
    coefficients = jnp.where(settled, pairs.least_known, all_coefficients[target])
    rows = jax.lax.dynamic_slice_in_dim(state.matrix, state.used, state.width)
    coupling = jnp.matmul(rows, coefficients, precision=jax.lax.Precision.HIGHEST)
    # as in Davidson's method: what a pending vector adds to a pair grows as its own value comes near the pair's
    lower = (target < goal.num_bottom) | ((target == goal.num_pairs) & (goal.num_bottom > 0))
    sign = jnp.where(lower, -1, 1).astype(coupling.dtype)
    shifted = sign * (all_values[target] * jnp.eye(state.width, dtype=coupling.dtype) - state.guess)
    distances, axes = jnp.linalg.eigh(shifted)
    direction = axes @ ((axes.T @ coupling) / jnp.maximum(distances, 0.05 * pairs.norm))
    if goal.num_guards + 1 < state.width:
        turn = state.num_products - goal.num_pairs
        last = jnp.maximum(goal.num_guards - turn, 0)
        guard = jnp.where(goal.num_guards > 0, jax.nn.one_hot(0, state.width, dtype=direction.dtype), 0)
        check = jax.nn.one_hot(last, state.width, dtype=direction.dtype)
        length = jnp.linalg.norm(direction)
        with_check = jnp.where(settled, 0, direction / jnp.where(length > 0, length, 1))
        with_check = with_check + GUARD_SHARE * guard + jnp.where(jumped, 1, CHECK_SHARE) * check
        now = goal.warm & (turn >= 0) & (state.num_products < checked(goal))
        direction = jnp.where(now, with_check, direction)
    waiting = state.num_products < jnp.where(goal.warm, goal.num_pairs, goal.num_cold)
    return krylov_turn(state, jnp.where(waiting, 0, direction))


def residual_bound(values: jax.Array, norm: jax.Array, tol: jax.Array | float) -> jax.Array:
    """Residual norms that count as converged: tol·|θ|, but not below what rounding allows, 32 eps ‖A‖."""
    return jnp.maximum(tol * jnp.abs(values), 32 * jnp.finfo(values.dtype).eps * norm)


def check_due(num_products: int | jax.Array, goal: Goal, width: int) -> bool | jax.Array:
    """Whether a run is looked at after this product: with several pending vectors always, else less often later on."""
    if width > 1:
        return num_products > 0
    return (num_products >= min_steps(goal.num_pairs)) & ((num_products <= 32) | (num_products % 4 == 0))


def min_steps(num_pairs: int) -> int:
    """Products before a run may stop: it must have the chance to find what its start hides."""
    return num_pairs + 3
