"""When a search for extreme eigenpairs is done, and where its next product goes."""

import jax
import numpy as np

from cljax._pytree import pytree_dataclass, static
from cljax.spectral.krylov import KrylovState, dimension
from cljax.spectral.projected import eigh, matmul, namespace, on_host, safe_norms, window
from cljax.spectral.ritz import RitzPairs, ritz_pairs
from cljax.spectral.turn import krylov_turn

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
        previous: (k,), values of the kept vectors that the run starts from, bottom ones first; None where ``warm`` is.
        warm: scalar bool, whether it starts from kept vectors: then they are multiplied first, and ``criterion``
            "value" may end the run. None in a cold run, whose program then has nothing of it, and where there are not
            as many kept vectors as pairs are wanted.
        num_top: greatest eigenvalues wanted.
        num_bottom: least eigenvalues wanted.
        criterion: "residual" or "value": which error must be below the tolerance.
        kept: scalar bool, whether any of the start vectors is from before: no more extreme pair is hidden as far as
            these and the check direction show, unless the spectrum has jumped; None where all are random.
        num_guards: kept vectors beside the wanted ones; the pending vector behind them is the check direction.
        num_cold: start vectors, random ones or others, that a cold run multiplies first.
        certify: whether a cold run is carried on until hardly a more extreme pair is hidden.
    """

    tol: jax.Array
    previous: jax.Array | None
    warm: jax.Array | None
    kept: jax.Array | None
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

    def on_host(self) -> "Goal":
        """The same in NumPy's arrays, for states whose matrices lie on the host."""
        return jax.tree.map(lambda x: np.asarray(x)[()], self)

    def trusted(self, jumped: jax.Array) -> jax.Array | bool:
        """Whether the run started from kept vectors and the spectrum has not jumped: a scalar."""
        return False if self.warm is None else self.warm & ~jumped


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
    direction, jumped, done = judge(state, goal, jumped)
    return krylov_turn(state, direction), jumped, done


def judge(state: KrylovState, goal: Goal, jumped: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As ``look``, with the direction (width,) in which the next product is needed most in place of the state."""
    xp = namespace(state.matrix)
    if goal.warm is None and on_host(state.matrix) and state.width == 1 and surely_open(state, goal):
        return xp.zeros(1, state.matrix.dtype), jumped, xp.bool_(False)
    outlook = goal.warm is not None and (not on_host(goal.warm) or bool(goal.warm))  # a cold run does not ask for it
    pairs = ritz_pairs(state, goal.num_top, goal.num_bottom, outlook)
    if goal.warm is not None and goal.previous is not None:
        at_kept = goal.warm & (state.num_products == goal.num_pairs)
        scale = xp.maximum(pairs.norm, xp.max(xp.abs(goal.previous)))
        change = xp.maximum(pairs.residual_norms, xp.abs(pairs.values - goal.previous))
        jumped = jumped | (at_kept & xp.any(change > JUMP * scale))
    trusted = goal.trusted(jumped)
    ratios = error_ratios(pairs, goal, trusted)
    if goal.certify:
        ratios = xp.maximum(ratios, hidden_ratios(pairs, goal, trusted))
    least = min_steps(goal.num_pairs)
    if goal.warm is not None:
        follow = trusted & (state.num_products < FOLLOW * min_steps(goal.num_pairs))
        ratios = xp.concatenate([ratios, xp.where(follow, guard_ratios(pairs, goal), 0)])
        least = xp.where(trusted, checked(goal), least) if goal.criterion == "value" else least
    enough = (state.num_products >= least) | (state.used >= dimension(state))
    done = (enough & xp.all(ratios <= 1)) | ~xp.isfinite(pairs.norm)
    return _direction(state, goal, jumped, pairs, ratios), jumped, done


def surely_open(state: KrylovState, goal: Goal) -> bool:
    """Whether the last coupling alone shows that a cold run is not done: most looks on the host can end with that.

    Args:
        state: of one pending vector, its matrices on the host.
        goal: what is looked for, without kept vectors.

    Returns:
        False where all errors may be small enough, or something is not finite.
    """
    used, k = int(state.used), goal.num_pairs
    if used < k:
        return False
    block = state.matrix[:used, :used]
    values, vectors = eigh((block + block.T) / 2)
    wanted = [*range(goal.num_bottom), *range(used - goal.num_top, used)]
    least = np.abs(state.matrix[used, :used] @ vectors)[wanted]  # of each residual's norm
    if goal.criterion == "value" and not goal.certify:
        gaps = np.concatenate([[np.inf], np.diff(values), [np.inf]])
        distance = np.minimum(gaps[:-1], gaps[1:])[wanted]
        least = np.where(distance > 0, np.minimum(least, 2 * least * (least / distance)), least)
    return bool(np.any(least > residual_bound(values[wanted], np.max(safe_norms(state.matrix)), goal.tol)))


def error_ratios(pairs: RitzPairs, goal: Goal, trusted: jax.Array | bool) -> jax.Array:
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
        errors = namespace(errors).where(trusted | (not goal.certify), pairs.value_errors, errors)
    return _ratios(errors, residual_bound(pairs.values, pairs.norm, goal.tol))


def hidden_ratios(pairs: RitzPairs, goal: Goal, trusted: jax.Array | bool) -> jax.Array:
    """How far residuals are from what makes it improbable that a random start hides a more extreme pair: (k,).

    Args:
        pairs: the pairs.
        goal: what is looked for.
        trusted: as for ``error_ratios``; then nothing is asked for.

    Returns:
        At most 1 where they are small enough.
    """
    xp = namespace(pairs.values)
    enough = residual_bound(pairs.values, pairs.norm, xp.minimum(goal.tol, COLD_TOL))
    # vectors stored in bfloat16 allow no less than about their rounding
    return xp.where(trusted, 0, _ratios(pairs.residual_norms, xp.maximum(enough, 2 * pairs.roundings)))


def guard_ratios(pairs: RitzPairs, goal: Goal) -> jax.Array:
    """Whether the pairs next inwards may turn out to be more extreme than the wanted ones: (g,).

    Args:
        pairs: the pairs.
        goal: what is looked for.

    Returns:
        At most 1 where not.
    """
    xp = namespace(pairs.values)
    ends = [goal.num_bottom - 1] * (goal.num_bottom > 0) + [goal.num_bottom] * (goal.num_top > 0)
    signs = xp.array([-1] * (goal.num_bottom > 0) + [1] * (goal.num_top > 0), pairs.values.dtype)
    inmost = pairs.values[xp.array(ends)]
    more = signs * (pairs.guard_bounds - inmost) > goal.tol * xp.abs(inmost)
    return xp.where(more, 2, 0).astype(pairs.values.dtype)


def checked(goal: Goal) -> int:
    """Products of a warm run after which the kept vectors and, for each end, a check direction are multiplied."""
    return goal.num_pairs + max(goal.num_guards, 1)


def _ratios(errors: jax.Array, bounds: jax.Array) -> jax.Array:
    xp = namespace(errors)
    # of the zero operator both are 0
    return xp.where(errors == 0, 0, errors / xp.where(bounds > 0, bounds, 1))


def _direction(state: KrylovState, goal: Goal, jumped: jax.Array, pairs: RitzPairs, ratios: jax.Array) -> jax.Array:
    xp, width = namespace(state.matrix), state.width
    if width == 1:
        return xp.zeros(1, state.matrix.dtype)
    target = xp.argmax(xp.where(xp.isnan(ratios), -1, ratios))
    all_values = xp.concatenate([pairs.values, pairs.guard_values])
    all_coefficients = xp.concatenate([pairs.coefficients, pairs.guard_coefficients])
    settled = xp.all(ratios <= 1)  # then what is left of the least products goes where least is known
    coefficients = xp.where(settled, pairs.least_known, all_coefficients[target])
    coupling = matmul(window(state.matrix, state.used, width), coefficients)
    # as in Davidson's method: what a pending vector adds to a pair grows as its own value comes near the pair's
    lower = (target < goal.num_bottom) | ((target == goal.num_pairs) & (goal.num_bottom > 0))
    sign = xp.where(lower, -1, 1).astype(coupling.dtype)
    distances, axes = eigh(sign * (all_values[target] * xp.eye(width, dtype=coupling.dtype) - state.guess))
    direction = axes @ ((axes.T @ coupling) / xp.maximum(distances, 0.05 * pairs.norm))
    if goal.warm is not None and goal.num_guards + 1 < width:
        turn = state.num_products - goal.num_pairs
        places = xp.arange(width)
        guard = xp.where((places == 0) & (goal.num_guards > 0), GUARD_SHARE, 0)
        check = xp.where(places == xp.maximum(goal.num_guards - turn, 0), xp.where(jumped, 1, CHECK_SHARE), 0)
        length = xp.linalg.norm(direction)
        with_check = xp.where(settled, 0, direction / xp.where(length > 0, length, 1)) + guard + check
        now = goal.warm & (turn >= 0) & (state.num_products < checked(goal))
        direction = xp.where(now, with_check, direction)
    first = goal.num_cold if goal.warm is None else xp.where(goal.warm, goal.num_pairs, goal.num_cold)
    waiting = state.num_products < first
    return xp.where(waiting, 0, direction).astype(state.matrix.dtype)


def residual_bound(values: jax.Array, norm: jax.Array, tol: jax.Array | float) -> jax.Array:
    """Residual norms that count as converged: tol·|θ|, but not below what rounding allows, 32 eps ‖A‖."""
    xp = namespace(values)
    return xp.maximum(tol * xp.abs(values), 32 * xp.finfo(values.dtype).eps * norm)


def check_due(num_products: int | jax.Array, goal: Goal, width: int) -> bool | jax.Array:
    """Whether a run is looked at after this product: with several pending vectors always, else less often later on."""
    if width > 1:
        return num_products > 0
    return (num_products >= min_steps(goal.num_pairs)) & ((num_products <= 32) | (num_products % 4 == 0))


def min_steps(num_pairs: int) -> int:
    """Products before a run may stop: it must have the chance to find what its start hides."""
    return num_pairs + 3
