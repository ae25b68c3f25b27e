"""Rayleigh-Ritz on a Krylov state: extreme pairs, their measured residuals, and what these say of the values."""

import jax
import jax.numpy as jnp

from cljax._pytree import pytree_dataclass
from cljax.spectral.krylov import KrylovState, safe_norms


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
    """

    values: jax.Array
    coefficients: jax.Array
    residual_norms: jax.Array
    roundings: jax.Array
    value_errors: jax.Array
    norm: jax.Array
    least_known: jax.Array


def projected_eigh(state: KrylovState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenpairs of the operator projected on the used vectors.

    Args:
        state: after at least one step.

    Returns:
        Values (capacity,), the first ``used`` ascending and true, the others a value beyond the spectrum; vectors
        (capacity, capacity) in columns; the greatest norm of a product, a lower bound of the operator's norm.
    """
    used = jnp.arange(state.capacity) < state.used
    norm = jnp.max(safe_norms(state.matrix))
    beyond = jnp.where(norm > 0, 4 * norm, 1)
    symmetric = jnp.where(used[:, None] & used[None], (state.matrix + state.matrix.T) / 2, 0)
    values, vectors = jnp.linalg.eigh(symmetric + jnp.diag(jnp.where(used, 0, beyond)))
    poison = jnp.where(jnp.isfinite(norm), 0, jnp.nan)
    return values + poison, vectors + poison, norm


def asymmetry(state: KrylovState) -> jax.Array:
    """Greatest difference of two entries of the projected operator that symmetry makes equal: a scalar."""
    used = jnp.arange(state.capacity) < state.used
    both = used[:, None] & used[None]
    return jnp.maximum(state.asymmetry, jnp.max(jnp.where(both, jnp.abs(state.matrix - state.matrix.T), 0)))


def extreme_indices(used: jax.Array, num_top: int, num_bottom: int) -> jax.Array:
    """Places of the extreme pairs among ascending ones: bottom ones first, each ascending; (k,)."""
    wanted = jnp.concatenate([jnp.arange(num_bottom), used - num_top + jnp.arange(num_top)])
    return jnp.clip(wanted, 0, jnp.maximum(used - 1, 0))


def ritz_pairs(state: KrylovState, num_top: int, num_bottom: int) -> RitzPairs:
    """Extreme pairs of the projected operator.

    Args:
        state: after at least one step.
        num_top: how many of the greatest.
        num_bottom: how many of the least.

    Returns:
        The pairs; where the space is still too small for all of them, some are there twice and none has a residual.
    """
    values, vectors, norm = projected_eigh(state)
    used = jnp.arange(state.capacity) < state.used
    misfit = jnp.matmul(state.matrix, vectors, precision=jax.lax.Precision.HIGHEST) - vectors * values[None]
    rounding = jnp.linalg.norm(vectors * state.rounding[:, None], axis=0)
    # inside of the space an exact symmetric product leaves nothing
    noise = safe_norms(jnp.where(used[:, None], misfit, 0))
    residuals = jnp.where(used, jnp.hypot(safe_norms(misfit), rounding), 0)
    least_known = vectors[:, jnp.argmax(residuals)]
    index = extreme_indices(state.used, num_top, num_bottom)
    chosen, enough = values[index], state.used >= num_top + num_bottom
    others = used[None] & (jnp.arange(state.capacity)[None] != index[:, None])
    distance = jnp.min(jnp.where(others, jnp.abs(values[None] - chosen[:, None]), jnp.inf), axis=1)
    alone = ~jnp.isfinite(distance) | (distance <= 0)
    residuals = jnp.where(enough, residuals[index], jnp.inf)
    quadratic = 2 * residuals * (residuals / jnp.where(alone, 1, distance)) + rounding[index]
    value_errors = jnp.where(alone | ~enough, residuals, jnp.minimum(residuals, quadratic))
    roundings = jnp.hypot(noise, rounding)[index]
    return RitzPairs(chosen, vectors[:, index].T, residuals, roundings, value_errors, norm, least_known)


def guard_pairs(state: KrylovState, num_top: int, num_bottom: int) -> tuple[jax.Array, jax.Array]:
    """The pairs next inwards of the wanted ones, one for each end that is wanted.

    Args:
        state: after at least one step.
        num_top: wanted at the upper end.
        num_bottom: wanted at the lower end.

    Returns:
        Values (g,) and coefficients (g, capacity), the bottom one first.
    """
    values, vectors, _ = projected_eigh(state)
    index = extreme_indices(state.used, num_top + (num_top > 0), num_bottom + (num_bottom > 0))
    chosen = [num_bottom] * (num_bottom > 0) + [num_bottom + (num_bottom > 0)] * (num_top > 0)
    index = index[jnp.asarray(chosen, jnp.int32)]
    return values[index], vectors[:, index].T
