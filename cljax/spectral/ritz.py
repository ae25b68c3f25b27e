"""Rayleigh-Ritz on a Krylov state: extreme pairs, their measured residuals, and what these say of the values."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._pytree import pytree_dataclass
from cljax.spectral.krylov import KrylovState
from cljax.spectral.projected import (
    bordered,
    column_norms,
    compiled_on_device,
    eigh,
    matmul,
    namespace,
    on_host,
    safe_norms,
    units,
    window,
)

UNKNOWN = 0.7
"""Rayleigh quotient of what a guard lacks, in units of the guard's value, while it is not known."""


@pytree_dataclass
class RitzPairs:
    """k extreme pairs of the projected operator, bottom ones first.

    Attributes:
        values: (k,), ascending.
        coefficients: (k, capacity), of the Ritz vectors in the basis.
        residual_norms: (k,), ‖A y − θ y‖ from the measured columns of the projected operator and, for a basis in
            bfloat16, the most that its rounding can add, that of different vectors being taken for independent; +inf
            where the space is still too small for k pairs.
        roundings: (k,), the part of the residual norms that no further product takes away: what is not symmetric in
            the products, such as rounding and the error of finite differences, and vectors stored in bfloat16.
        value_errors: (k,), estimate of the distance to the eigenvalue meant: 2 residual² / distance to the nearest
            other Ritz value, and the rounding of the basis; at most the residual. Half of the distance stands for the
            gap.
        norm: scalar, a lower bound of the operator's norm.
        least_known: (capacity,), coefficients of the Ritz vector with the greatest residual of all.
        guard_values: (g,), of the pairs next inwards of the wanted ones, one for each end that is wanted.
        guard_coefficients: (g, capacity), of their Ritz vectors.
        guard_bounds: (g,), the value that one more product may show near each: the extreme eigenvalue of the operator
            on the guards and the pending vectors, where its block of the latter is guessed from an earlier run and,
            where nothing is known, from the guard's value. No bound in the strict sense.
        guard_next: (g, capacity), coefficients of the vectors with these values: a step of a power iteration, in which
            what an earlier run knew is not lost.
    """

    values: jax.Array
    coefficients: jax.Array
    residual_norms: jax.Array
    roundings: jax.Array
    value_errors: jax.Array
    norm: jax.Array
    least_known: jax.Array
    guard_values: jax.Array
    guard_coefficients: jax.Array
    guard_bounds: jax.Array
    guard_next: jax.Array


def projected_eigh(state: KrylovState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenpairs of the operator projected on the used vectors.

    Args:
        state: after at least one step.

    Returns:
        Values (capacity,), the first ``used`` ascending and true, the others a value beyond the spectrum; vectors
        (capacity, capacity) in columns; the greatest norm of a product, a lower bound of the operator's norm.
    """
    xp = namespace(state.matrix)
    norm = xp.max(safe_norms(state.matrix))
    if xp is np and np.isfinite(4 * norm):
        return _host_eigh(state.matrix, int(state.used), norm)
    used = xp.arange(state.capacity) < state.used
    finite = xp.isfinite(norm)
    beyond = xp.where(finite & (norm > 0), 4 * norm, 1)
    symmetric = xp.where(used[:, None] & used[None] & finite, (state.matrix + state.matrix.T) / 2, 0)
    values, vectors = _leading_eigh(symmetric + xp.diag(xp.where(used, 0, beyond)), state.used)
    poison = xp.where(finite, 0, xp.nan).astype(norm.dtype)
    return values + poison, vectors + poison, norm


def _host_eigh(matrix: Any, used: int, norm: Any) -> tuple[Any, Any, Any]:
    block = matrix[:used, :used]
    values = np.full(len(matrix), 4 * norm if norm > 0 else 1, matrix.dtype)
    vectors = np.eye(len(matrix), dtype=matrix.dtype)
    values[:used], vectors[:used, :used] = eigh((block + block.T) / 2)
    return values, vectors, norm


def _leading_eigh(matrix: jax.Array, used: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenpairs of a matrix that is a multiple of the identity, above all eigenvalues, beyond its first places.

    A run that may take many products but has taken few should not pay for the many at each look: the leading block is
    decomposed in the least of some sizes that holds it.

    Args:
        matrix: (capacity, capacity), symmetric.
        used: int32 scalar, places of the block.

    Returns:
        Values ascending, and vectors in columns, as ``jnp.linalg.eigh`` gives them.
    """
    if on_host(matrix):  # not finite
        return eigh(matrix)
    capacity = matrix.shape[0]
    sizes = [size for size in (2**k for k in range(3, 16)) if 3 * size < 2 * capacity]

    def of_size(size: int) -> Callable[[], tuple[jax.Array, jax.Array]]:
        def run() -> tuple[jax.Array, jax.Array]:
            values, vectors = jnp.linalg.eigh(matrix[:size, :size])
            values = jnp.concatenate([values, jnp.diagonal(matrix)[size:]])
            return values, jnp.eye(capacity, dtype=matrix.dtype).at[:size, :size].set(vectors)

        return run

    index = jnp.sum(used > jnp.array(sizes, jnp.int32))
    return jax.lax.switch(index, [of_size(size) for size in (*sizes, capacity)])


def asymmetry(state: KrylovState) -> jax.Array:
    """Greatest difference of two entries of the projected operator that symmetry makes equal: a scalar."""
    xp = namespace(state.matrix)
    used = xp.arange(state.capacity) < state.used
    both = used[:, None] & used[None]
    return xp.maximum(state.asymmetry, xp.max(xp.where(both, xp.abs(state.matrix - state.matrix.T), 0)))


def extreme_indices(used: jax.Array, num_top: int, num_bottom: int) -> jax.Array:
    """Places of the extreme pairs among ascending ones: bottom ones first, each ascending; (k,)."""
    xp = namespace(used)
    wanted = xp.concatenate([xp.arange(num_bottom), used - num_top + xp.arange(num_top)])
    return xp.maximum(xp.minimum(wanted, used - 1), 0)


def ritz_pairs(state: KrylovState, num_top: int, num_bottom: int, outlook: bool = True) -> RitzPairs:
    """Extreme pairs of the projected operator.

    Args:
        state: after at least one step.
        num_top: how many of the greatest.
        num_bottom: how many of the least.
        outlook: static, whether it is asked what one more product may show near the guards; else their bounds are their
            values, and the vectors with these their own.

    Returns:
        The pairs; where the space is still too small for all of them, some are there twice and none has a residual.
    """
    # without the vectors programs of all operators, looks and ends alike, have one trace of it
    return _ritz_pairs(dataclasses.replace(state, basis=None, vector=None), num_top, num_bottom, outlook)


@partial(compiled_on_device, static_argnames=("num_top", "num_bottom", "outlook"))
def _ritz_pairs(state: KrylovState, num_top: int, num_bottom: int, outlook: bool) -> RitzPairs:
    xp = namespace(state.matrix)
    values, vectors, norm = projected_eigh(state)
    used = xp.arange(state.capacity) < state.used
    residuals, noise, rounding = residual_norms(state, values, vectors)
    least_known = vectors[:, xp.argmax(residuals)]
    index = extreme_indices(state.used, num_top, num_bottom)
    guards = _guards(state.used, num_top, num_bottom)
    chosen, enough = values[index], state.used >= num_top + num_bottom
    others = used[None] & (xp.arange(state.capacity)[None] != index[:, None])
    distance = xp.min(xp.where(others, xp.abs(values[None] - chosen[:, None]), xp.inf), axis=1)
    alone = ~xp.isfinite(distance) | (distance <= 0)
    bounds, ahead = values[guards], vectors[:, guards].T
    if outlook:
        bounds, ahead = _outlook(state, bounds, ahead, num_bottom)
    residuals = xp.where(enough, residuals[index], xp.inf)
    quadratic = 2 * residuals * (residuals / xp.where(alone, 1, distance)) + rounding[index]
    value_errors = xp.where(alone | ~enough, residuals, xp.minimum(residuals, quadratic))
    roundings = xp.hypot(noise, rounding)[index]
    return RitzPairs(
        chosen,
        vectors[:, index].T,
        residuals,
        roundings,
        value_errors,
        norm,
        least_known,
        values[guards],
        vectors[:, guards].T,
        bounds,
        ahead,
    )


def residual_norms(state: KrylovState, values: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Norms of A y − θ y of all Ritz pairs, and what of it no further product takes away.

    Args:
        state: after at least one step.
        values: (capacity,), of ``projected_eigh``.
        vectors: (capacity, capacity), of the same.

    Returns:
        Each (capacity,): the norms, 0 for places that are not used; their part inside of the space, where an exact
        symmetric product leaves nothing; and what the rounding of the basis may add.
    """
    xp = namespace(state.matrix)
    used = xp.arange(state.capacity) < state.used
    misfit = matmul(state.matrix, vectors) - vectors * values[None]
    rounding = column_norms(vectors * state.rounding[:, None])
    noise = safe_norms(xp.where(used[:, None], misfit, 0))
    return xp.where(used, xp.hypot(safe_norms(misfit), rounding), 0), noise, rounding


def _guards(used: jax.Array, num_top: int, num_bottom: int) -> jax.Array:
    """Places of the pairs next inwards of the wanted ones among ascending ones, that of the bottom first: (g,)."""
    index = extreme_indices(used, num_top + (num_top > 0), num_bottom + (num_bottom > 0))
    chosen = [num_bottom] * (num_bottom > 0) + [num_bottom + (num_bottom > 0)] * (num_top > 0)
    return index[namespace(used).asarray(chosen, np.int32)]


def _outlook(
    state: KrylovState, values: jax.Array, coefficients: jax.Array, num_bottom: int
) -> tuple[jax.Array, jax.Array]:
    """Extreme eigenpairs of the operator on guards and pending vectors, its block of the latter being guessed."""
    xp, num, first = namespace(values), values.shape[0], state.used
    couplings = matmul(window(state.matrix, first, state.width), coefficients.T)
    pending = units(first + xp.arange(state.width), state.capacity, coefficients.dtype)
    rows = xp.concatenate([coefficients, pending])
    bounds, ahead = [], []
    for end in range(num):
        sign = -1 if end < (num_bottom > 0) else 1
        outwards = sign * values[end]
        unknown = outwards * xp.where(outwards > 0, UNKNOWN, 1).astype(values.dtype)
        block = unknown * xp.eye(state.width, dtype=values.dtype) + (1 - UNKNOWN) * sign * state.guess
        found, vectors = eigh(bordered(sign * values, sign * couplings, block))
        bounds.append(sign * found[-1])
        ahead.append(matmul(vectors[:, -1], rows))
    return xp.stack(bounds), xp.stack(ahead)
