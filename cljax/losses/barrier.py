"""Newton's method with a logarithmic barrier: the maximizer of <f, y> − fn(y) on a simple domain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

DOMAINS = ("reals", "positive", "box", "simplex")
_MAX_STEPS = 300
_MAX_HALVINGS = 80
_SHRINK = 0.1


class Solution(NamedTuple):
    """Where the method stopped.

    Attributes:
        value: scalar, <f, y> − fn(y).
        argmax: (K,), y.
        gap: scalar, how far the value may be below the supremum.
        converged: scalar bool.
        num_steps: int32 scalar.
        barrier: scalar, the barrier's final weight.
    """

    value: jax.Array
    argmax: jax.Array
    gap: jax.Array
    converged: jax.Array
    num_steps: jax.Array
    barrier: jax.Array


class _State(NamedTuple):
    y: jax.Array
    mu: jax.Array
    decrement: jax.Array
    step: jax.Array
    alive: jax.Array


def maximize(fn: Callable[[jax.Array], jax.Array], domain: str, scores: jax.Array, start: Any, tol: float) -> Solution:
    """Maximize the concave <scores, y> − fn(y) over the domain.

    Args:
        fn: convex, twice differentiable inside of the domain: (K,) to a scalar.
        domain: one of ``DOMAINS``.
        scores: (K,).
        start: (K,), a point inside; None for the domain's own.
        tol: greatest gap, relative to 1 + abs(value) + max abs(scores).

    Returns:
        The solution; NaN gap where the Hessian was not positive definite.
    """
    size, dtype = scores.shape[0], scores.dtype
    eps = jnp.finfo(dtype).eps
    scale = 1 + jnp.max(jnp.abs(scores))
    num_barriers = {"reals": 0, "positive": size, "box": 2 * size, "simplex": size}[domain]
    least_mu = tol * scale / (4 * max(num_barriers, 1))

    def potential(y: jax.Array, mu: jax.Array) -> jax.Array:
        return fn(y) - jnp.dot(scores, y) + mu * barrier(domain, y)

    def newton(y: jax.Array, mu: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient = jax.grad(potential)(y, mu)
        direction = -constrained_solve(domain, jax.hessian(potential)(y, mu), gradient)
        decrement = -jnp.dot(gradient, direction)
        # along the constraint, rounding may leave a minimum's decrement just below 0
        return direction, jnp.where(decrement > -16 * eps * scale, jnp.maximum(decrement, 0), decrement)

    def line_search(y: jax.Array, mu: jax.Array, direction: jax.Array, decrement: jax.Array) -> jax.Array:
        here = potential(y, mu)

        def bad(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            t, count = carry
            there = potential(y + t * direction, mu)
            good = inside(domain, y + t * direction) & (there <= here - 1e-4 * t * decrement + 8 * eps * abs(here))
            return ~good & (count < _MAX_HALVINGS)

        return jax.lax.while_loop(bad, lambda c: (c[0] / 2, c[1] + 1), (jnp.ones((), dtype), jnp.zeros((), int)))[0]

    def finished(state: _State) -> jax.Array:
        return (state.mu <= least_mu) & (state.decrement <= tol * scale / 4)

    def body(state: _State) -> _State:
        direction, decrement = newton(state.y, state.mu)
        t = line_search(state.y, state.mu, direction, decrement)
        y = state.y + t * direction
        y = y / jnp.sum(y) if domain == "simplex" else y
        moved = jnp.all(jnp.isfinite(y)) & (decrement >= 0)
        centered = (decrement <= 0.1 * state.mu) & (state.mu > least_mu)
        mu = jnp.where(centered, jnp.maximum(_SHRINK * state.mu, least_mu), state.mu)
        # a new weight of the barrier has not been centred yet
        decrement = jnp.where(centered, jnp.inf, decrement)
        return _State(jnp.where(moved, y, state.y), mu, decrement, state.step + 1, moved)

    y = jnp.asarray({"reals": 0, "positive": 1, "box": 0.5, "simplex": 1 / size}[domain], dtype)
    y = jnp.broadcast_to(y, scores.shape) if start is None else start
    mu = scale if num_barriers else jnp.zeros((), dtype)
    first = _State(y, mu, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    last = jax.lax.while_loop(lambda s: ~finished(s) & s.alive & (s.step < _MAX_STEPS), body, first)
    value = jnp.dot(scores, last.y) - fn(last.y)
    slope = scores - jax.grad(fn)(last.y)
    gap = _gap(domain, slope, last.y, num_barriers * last.mu + last.decrement / 2)
    gap = jnp.where(last.alive, gap, jnp.nan)
    # an infinite Hessian makes the decrement vanish anywhere: the slope must be small too
    steep = jnp.max(jnp.abs(slope * _slope_weight(domain, last.y))) > tol**0.5 * scale
    return Solution(value, last.y, gap, (gap <= tol * (scale + abs(value))) & ~steep, last.step, last.mu)


def barrier(domain: str, y: jax.Array) -> jax.Array:
    """The logarithmic barrier of the domain at y: (K,) to a scalar."""
    if domain == "reals":
        return jnp.zeros((), y.dtype)
    logs = jnp.log(y) + (jnp.log1p(-y) if domain == "box" else 0)
    return -jnp.sum(logs)


def _slope_weight(domain: str, y: jax.Array) -> jax.Array:
    """What weighs the slope at y: nothing on the reals, y where a bound at 0 may hold it; 0 on bounded domains."""
    return {"reals": jnp.ones_like(y), "positive": y}.get(domain, jnp.zeros_like(y))


def inside(domain: str, y: jax.Array) -> jax.Array:
    """Whether y is in the interior of the domain."""
    if domain == "reals":
        return jnp.all(jnp.isfinite(y))
    return jnp.all((y > 0) & (y < (1 if domain in {"box", "simplex"} and y.shape[0] > 1 else jnp.inf)))


def constrained_solve(domain: str, hessian: jax.Array, rhs: jax.Array) -> jax.Array:
    """Solution x of H x = rhs, on the simplex up to a multiple of ones and with entries whose sum is 0.

    Args:
        domain: one of ``DOMAINS``.
        hessian: (K, K), positive definite; NaN comes out where it is not.
        rhs: (K,).

    Returns:
        Shape (K,).
    """
    eps = jnp.finfo(hessian.dtype).eps
    # in units of its diagonal, so that the barrier's great entries do not drown the small ones
    unit = 1 / jnp.sqrt(jnp.maximum(jnp.diag(hessian), eps))
    scaled = hessian * jnp.outer(unit, unit) + 4 * eps * rhs.shape[0] * jnp.eye(rhs.shape[0], dtype=hessian.dtype)
    factor = jax.scipy.linalg.cho_factor(scaled)
    x = unit * jax.scipy.linalg.cho_solve(factor, unit * rhs)
    if domain != "simplex":
        return x
    ones = unit * jax.scipy.linalg.cho_solve(factor, unit)
    return x - ones * (jnp.sum(x) / jnp.sum(ones))


def _gap(domain: str, slope: jax.Array, y: jax.Array, estimate: jax.Array) -> jax.Array:
    """How much a concave function of this slope at y may still grow inside of the domain."""
    if domain == "simplex":
        return jnp.max(slope) - jnp.dot(slope, y)
    if domain == "box":
        return jnp.sum(jnp.maximum(slope * (1 - y), -slope * y))
    return estimate
