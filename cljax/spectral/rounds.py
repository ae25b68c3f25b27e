"""Rounds of a stochastic estimator, repeated until the standard error meets the tolerance.

A round is a few products; after each one an update takes the product in and says what to multiply next. As for Lanczos
there are two drivers, one compiled loop and a host loop of compiled pieces, around the same updates. The standard error
is looked at on a geometric schedule: chance gets few tries to stop a run early, and a look may cost as much as a
product. The price is a fifth more probes than needed, at most.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from cljax import tree
from cljax._checks import check_key, check_positive_int, check_tol
from cljax._in_flight import landed
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.driver import apply_product, linearized
from cljax.spectral.estimate import Estimate, within
from cljax.spectral.memory import run_layout
from cljax.spectral.probes import one_vector

_GROWTH = 1.2


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What makes one estimator; its functions belong to a module, so that programs are found again.

    Attributes:
        updates: functions ``(state, product) -> state``, one for each product of a round; a state is a frozen dataclass
            with ``vector``, what to multiply next, and ``count``, the rounds done.
        estimate: ``state -> (mean, standard_error)``.
    """

    updates: tuple[Callable[[Any, PyTree], Any], ...]
    estimate: Callable[[Any], tuple[PyTree, PyTree]]


def check_arguments(
    op: Any, key: Any, tol: Any, number: Any, min_probes: Any, name: str = "max_products"
) -> tuple[int, int]:
    """Check what all stochastic estimators take.

    Args:
        op: symmetric operator.
        key: typed PRNG key.
        tol: None or a relative tolerance.
        number: most products or probes, at least 1.
        min_probes: at least 2.
        name: of ``number``, for the message.

    Returns:
        The two numbers as ints.
    """
    check_symmetric("op", op)
    check_key("key", key)
    if tol is not None:
        check_tol("tol", tol)
    return check_positive_int(name, number), check_positive_int("min_probes", min_probes, 2)


def probe_like(key: jax.Array, index: jax.Array | int, like: PyTree, distribution: str) -> PyTree:
    """Probe number ``index`` of a run, the same whenever it is asked for, in accumulation dtypes."""
    like = tree.work_struct(like)
    return tree.random_like(jax.random.fold_in(key, index), like, distribution)


def first_probe(op: LinearOperator, key: jax.Array, distribution: str) -> PyTree:
    """Probe 0, as a run keeps it."""
    return one_vector(_FIRST[distribution], key, op.struct, run_layout(op))


_FIRST = {
    "normal": lambda key, like: probe_like(key, 0, like, "normal"),
    "rademacher": lambda key, like: probe_like(key, 0, like, "rademacher"),
}


def sum_terms(term: Callable[[jax.Array], PyTree], count: jax.Array, most: int, zero: PyTree) -> PyTree:
    """Σ term(i) over i < count in a loop of fixed length, so that reverse mode can pass; each recomputed, not stored.

    Args:
        term: index -> pytree like ``zero``.
        count: how many terms.
        most: static, the most that there can be.
        zero: pytree of zeros.

    Returns:
        The sum.
    """

    def add(total: PyTree, i: jax.Array) -> tuple[PyTree, None]:
        return tree.add(total, jax.lax.cond(i < count, lambda: tree.cast_like(term(i), zero), lambda: zero)), None

    return jax.lax.scan(jax.checkpoint(add), zero, jnp.arange(most))[0]


def run_rounds(
    driver: Any, op: LinearOperator, state: Any, scheme: Scheme, tol: Any, num_rounds: int, min_rounds: int
) -> tuple[Any, Estimate]:
    """Repeat rounds until the standard error meets the tolerance, or ``num_rounds`` of them.

    Args:
        driver: from ``choose_driver``.
        op: symmetric operator.
        state: the state before the first round; the host driver gives its memory away.
        scheme: the estimator.
        tol: None for all rounds, or a tolerance relative to the estimate.
        num_rounds: static, most rounds.
        min_rounds: static, rounds before the first look at the error.

    Returns:
        The last state and the estimate.
    """
    shardings = tuple(leaf.sharding for leaf in jax.tree.leaves(tree.struct(state.vector)))
    looks = () if tol is None else look_schedule(num_rounds, min_rounds)
    target = 0.0 if tol is None else tol
    if driver == "compiled":
        state = _compiled(op, state, target, scheme, num_rounds, looks, shardings)
    else:
        state = _host(op, state, target, scheme, num_rounds, looks, shardings)
    return landed((state, _finish(state, target, scheme, bool(looks), min_rounds)))


def look_schedule(num_rounds: int, min_rounds: int) -> tuple[int, ...]:
    """After which rounds the error is looked at, from ``min_rounds`` to ``num_rounds``."""
    looks = [min(min_rounds, num_rounds)]
    while looks[-1] < num_rounds:
        looks.append(min(max(looks[-1] + 1, int(_GROWTH * looks[-1])), num_rounds))
    return tuple(looks)


@partial(jax.jit, static_argnames=("scheme", "num_rounds", "looks", "shardings"))
def _compiled(
    op: LinearOperator, state: Any, tol: Any, scheme: Scheme, num_rounds: int, looks: tuple[int, ...], shardings: Any
) -> Any:
    product, struct = op.linearize(), op.struct

    def one_round(_: Any, state: Any) -> Any:
        for update in scheme.updates:
            found = product(tree.from_rows(tree.cast_like(state.vector, struct)))
            state = _update(state, tree.rows_like(found, state.vector), update, shardings)
        return state

    if not looks:
        return jax.lax.fori_loop(0, num_rounds, one_round, state)
    due = np.isin(np.arange(num_rounds + 1), looks)

    def step(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        state = one_round(None, carry[0])
        look = jnp.asarray(due)[state.count]
        return state, jax.lax.cond(look, lambda: _settled(state, tol, scheme), lambda: jnp.array(False))

    def go_on(carry: tuple[Any, jax.Array]) -> jax.Array:
        return ~carry[1] & (carry[0].count < num_rounds)

    return jax.lax.while_loop(go_on, step, (state, jnp.array(False)))[0]


def _host(
    op: LinearOperator, state: Any, tol: Any, scheme: Scheme, num_rounds: int, looks: tuple[int, ...], shardings: Any
) -> Any:
    product, struct = linearized(op), op.struct
    for done in range(1, num_rounds + 1):
        for update in scheme.updates:
            state = _update_jit(state, apply_product(product, struct, state.vector), update, shardings)
            landed(state.vector)
        if done in looks and _settled_jit(state, tol, scheme):
            break
    return state


def _update(state: Any, product: PyTree, update: Callable[[Any, PyTree], Any], shardings: Any) -> Any:
    state = update(state, tree.to_work(product))
    leaves, treedef = jax.tree.flatten(state.vector)
    vector = jax.tree.unflatten(treedef, [_keep(x, sharding) for x, sharding in zip(leaves, shardings, strict=True)])
    return dataclasses.replace(state, vector=vector)


def _keep(x: jax.Array, sharding: Any) -> jax.Array:
    if not isinstance(sharding, NamedSharding):
        return x
    if AxisType.Explicit in sharding.mesh.axis_types:
        return jax.sharding.reshard(x, sharding)
    return jax.lax.with_sharding_constraint(x, sharding)


def _settled(state: Any, tol: Any, scheme: Scheme) -> jax.Array:
    """Whether the tolerance is met, or nothing finite is left to estimate."""
    mean, error = scheme.estimate(state)
    return within(mean, error, tol) | ~jnp.isfinite(tree.norm(mean))


_update_jit = quick_jit(_update, static_argnames=("update", "shardings"), donate_argnums=0)
_settled_jit = quick_jit(_settled, static_argnames="scheme")


@quick_jit(static_argnames=("scheme", "has_tol", "min_rounds"))
def _finish(state: Any, tol: Any, scheme: Scheme, has_tol: bool, min_rounds: int) -> Estimate:
    mean, error = scheme.estimate(state)
    converged = within(mean, error, tol) & (state.count >= min_rounds) if has_tol else jnp.array(False)
    return Estimate(mean, error, len(scheme.updates) * state.count, state.count, converged)
