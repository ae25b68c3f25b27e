"""Numeric convex conjugates of a user's own convex function, with a bound on their error."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax.losses.barrier import DOMAINS, Solution, barrier, constrained_solve, maximize

ConvexFn = Callable[[jax.Array], jax.Array]
"""``fn(y) -> scalar`` for y of shape (K,): convex, twice differentiable inside of its domain."""


@pytree_dataclass
class Conjugate:
    """A numeric conjugate and how good it is.

    Attributes:
        value: (...), <f, y> − fn(y) at the point found: never above the conjugate but for rounding.
        argmax: (..., K), the point found: the derivative of the conjugate.
        gap: (...), how far ``value`` may be below the conjugate: a bound on bounded domains for convex ``fn``; for
            "reals" the Newton decrement's estimate, exact for quadratics.
        converged: (...) bool, whether the gap is down to the tolerance.
        num_steps: (...) int32, Newton steps taken.
    """

    value: jax.Array
    argmax: jax.Array
    gap: jax.Array
    converged: jax.Array
    num_steps: jax.Array


def conjugate(
    fn: ConvexFn, scores: jax.Array, *, domain: str = "reals", start: Any = None, tol: float | None = None
) -> Conjugate:
    """Numeric conjugate sup_y <f, y> − fn(y) of a convex function, by Newton's method with a logarithmic barrier.

    It may be jitted and vmapped, and differentiated in ``scores``: the derivative of the value is the argmax, and
    that of the argmax comes from the Hessian at the solution.

    Args:
        fn: hashable ``fn(y) -> scalar`` for y of shape (K,); convex and twice differentiable inside of the domain.
        scores: f, shape (..., K), floating; half precision is computed in float32, and so are the results.
        domain: "reals"; "positive", for y > 0; "box", for 0 < y < 1; "simplex", for the probability simplex.
        start: points inside of the domain, shape (K,) or (..., K), where ``fn`` has a finite Hessian; None for the
            middle of a bounded domain, 1 for "positive" and 0 for "reals".
        tol: greatest gap that counts as converged, relative to 1 + abs(value) + max abs(f); None for eps^(3/4).

    Returns:
        Values, maximizers and their accuracy. Where ``fn`` is not convex on the way, grows too slowly to have a
        finite conjugate, or is NaN, ``converged`` is False and the gap says how far it came, or is NaN.

    Raises:
        ValueError: if the domain is not known, ``scores`` is a scalar, ``start`` has another shape, or ``tol`` is not
            above 0.
        TypeError: if ``scores`` is not floating, or ``fn`` not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> found = losses.conjugate(lambda y: jnp.sum(y * jnp.log(y)), jnp.zeros(4), domain="simplex")
        >>> round(found.value.item(), 4), bool(found.converged)
        (1.3863, True)

    References:
        Boyd, Vandenberghe, Convex Optimization (2004), sections 9.5, 11.2 and 11.3.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain: expected one of {list(DOMAINS)}, got {domain!r}")
    scores = as_single_at_least(scores)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"scores: expected a floating dtype, got {scores.dtype}; cast with .astype(float)")
    if scores.ndim == 0:
        raise ValueError("scores: expected shape (..., K), got a scalar; add a last axis of length 1")
    if start is not None and jnp.shape(start) not in {scores.shape, scores.shape[-1:]}:
        raise ValueError(f"start: expected shape {scores.shape} or {scores.shape[-1:]}, got {jnp.shape(start)}")
    try:
        hash(fn)
    except TypeError as error:
        raise TypeError(f"fn: expected a hashable function, got {type(fn).__name__}; use a plain function") from error
    if tol is None:
        tol = float(jnp.finfo(scores.dtype).eps) ** 0.75
    if not tol > 0:
        raise ValueError(f"tol: expected a number above 0, got {tol}")
    if start is not None:
        start = jnp.broadcast_to(jnp.asarray(start, scores.dtype), scores.shape).reshape(-1, scores.shape[-1])
    lead, num = scores.shape[:-1], scores.shape[-1]
    found = _solve(fn, domain, float(tol), scores.reshape(-1, num), start)
    value, argmax, gap, converged, num_steps, _ = found
    fields = (gap.reshape(lead), converged.reshape(lead), num_steps.reshape(lead))
    return Conjugate(value.reshape(lead), argmax.reshape(scores.shape), *fields)


def as_single_at_least(points: Any) -> jax.Array:
    """The points as an array, in float32 where they are in half precision: there is no Cholesky decomposition in it."""
    points = jnp.asarray(points)
    return points.astype(tree.work_dtype(points.dtype)) if jnp.issubdtype(points.dtype, jnp.floating) else points


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(fn: ConvexFn, domain: str, tol: float, scores: jax.Array, start: Any) -> Solution:
    if start is None:
        return jax.vmap(lambda f: _row(fn, domain, tol, f, None))(scores)
    return jax.vmap(lambda f, y: _row(fn, domain, tol, f, y))(scores, start)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _row(fn: ConvexFn, domain: str, tol: float, scores: jax.Array, start: Any) -> Solution:
    return maximize(fn, domain, scores, start, tol)


@_row.defjvp
def _row_jvp(fn: ConvexFn, domain: str, tol: float, primals: Any, tangents: Any) -> Any:
    found = _row(fn, domain, tol, *primals)
    direction = tangents[0]

    def potential(y: jax.Array) -> jax.Array:
        return fn(y) + found.barrier * barrier(domain, y)

    slope = constrained_solve(domain, jax.hessian(potential)(found.argmax), direction)
    zeros = jax.tree.map(_zero_tangent, found)
    return found, zeros._replace(value=jnp.dot(found.argmax, direction), argmax=slope)


def _zero_tangent(x: jax.Array) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


def legendre_gap(fn: ConvexFn, targets: jax.Array, scores: jax.Array, **options: Any) -> Conjugate:
    """Legendre-Fenchel gap fn(y) + fn*(f) − <f, y> of a user's own convex function: its Fenchel-Young loss.

    Args:
        fn: as for ``conjugate``.
        targets: y, shape (..., K), in the domain; half precision as for the scores.
        scores: f, shape (..., K).
        **options: ``domain``, ``start`` and ``tol`` of ``conjugate``.

    Returns:
        ``value`` is the loss, at least 0 up to rounding; ``argmax`` the prediction; ``gap`` how far below the true
        loss the value may be.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> found = losses.legendre_gap(lambda y: jnp.sum(y * y) / 2, jnp.zeros(2), jnp.array([1.0, 1.0]))
        >>> round(found.value.item(), 5)
        1.0

    References:
        arXiv:2608.09523, equation 2.
    """
    targets, scores = as_single_at_least(targets), as_single_at_least(scores)
    if targets.shape != scores.shape:
        raise ValueError(f"targets: expected the shape of scores, {scores.shape}, got {targets.shape}")
    found = conjugate(fn, scores, **options)
    values = jax.vmap(fn)(targets.reshape(-1, targets.shape[-1])).reshape(found.value.shape)
    return dataclasses.replace(found, value=found.value + values - jnp.sum(scores * targets, axis=-1))


def biconjugate(fn: ConvexFn, targets: jax.Array, **options: Any) -> Conjugate:
    """Numeric biconjugate sup_f <f, y> − fn*(f), which is ``fn`` itself where it is convex and closed.

    Args:
        fn: as for ``conjugate``.
        targets: y, shape (..., K), inside of the domain: at its border the supremum may not be attained, and then
            ``converged`` is False.
        **options: ``domain``, ``start`` and ``tol`` of ``conjugate``, for the inner problem.

    Returns:
        ``value`` fn**(y); ``argmax`` a subgradient of ``fn`` at y; ``gap`` the outer problem's.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> found = losses.biconjugate(lambda y: jnp.sum(jnp.cosh(y)), jnp.array([1.0]))
        >>> round(found.value.item(), 4), round(found.argmax.item(), 4)
        (1.5431, 1.1752)
    """
    targets = as_single_at_least(targets)
    # where fn is differentiable and convex, the supremum is attained at its gradient
    start = jax.vmap(jax.grad(fn))(targets.reshape(-1, targets.shape[-1])).reshape(targets.shape)
    return conjugate(_ConjugateValue(fn, tuple(sorted(options.items()))), targets, start=start)


@dataclasses.dataclass(frozen=True)
class _ConjugateValue:
    fn: ConvexFn
    options: tuple[tuple[str, Any], ...]

    def __call__(self, scores: jax.Array) -> jax.Array:
        return conjugate(self.fn, scores, **dict(self.options)).value
