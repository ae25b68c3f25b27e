"""Thick restarts: a full basis is compressed to the Ritz vectors worth keeping, and the run goes on from there."""

import jax
import jax.numpy as jnp

from cljax import tree
from cljax.spectral.krylov import KrylovState
from cljax.spectral.ritz import asymmetry, extreme_indices, projected_eigh


def num_kept(places: int, num_top: int, num_bottom: int) -> tuple[int, int]:
    """How many Ritz vectors of each end a restart keeps: the wanted ones and, of the other places, half.

    Args:
        places: used vectors that the basis can hold.
        num_top: pairs wanted at the upper end.
        num_bottom: pairs wanted at the lower end.

    Returns:
        Kept ones at the upper and at the lower end.
    """
    spare = max(1, (places - num_top - num_bottom) // 2)
    if not num_bottom:
        return num_top + spare, 0
    if not num_top:
        return 0, num_bottom + spare
    return num_top + spare - spare // 2, num_bottom + spare // 2


def compress(state: KrylovState, num_top: int, num_bottom: int) -> KrylovState:
    """Keep Ritz vectors of both ends, and the pending vectors; the relation A Q = Q K still holds.

    Args:
        state: with more used vectors than are kept, and a basis in the accumulation dtypes.
        num_top: how many of the greatest are kept.
        num_bottom: how many of the least are kept.

    Returns:
        A state with at most num_top + num_bottom used vectors in the same basis.

    References:
        Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIMAX 22 (2000), section 2.
    """
    capacity, width, kept = state.capacity, state.width, num_top + num_bottom
    values, vectors, _ = projected_eigh(state)
    index = extreme_indices(state.used, num_top, num_bottom)
    coefficients = vectors[:, index].T
    pending = jax.nn.one_hot(state.used + jnp.arange(width), capacity, dtype=coefficients.dtype)
    rows = jnp.concatenate([coefficients, pending])
    rows = jnp.pad(rows, ((0, capacity - kept - width), (0, 0)))
    couplings = jax.lax.dynamic_slice_in_dim(state.matrix, state.used, width)
    couplings = jnp.matmul(couplings, coefficients.T, precision=jax.lax.Precision.HIGHEST)
    matrix = jnp.zeros_like(state.matrix)
    matrix = matrix.at[:kept, :kept].set(jnp.diag(values[index])).at[kept : kept + width, :kept].set(couplings)
    enough = state.used >= kept
    # the identity rather than another branch, which would hold a second basis
    rows = jnp.where(enough, rows, jnp.eye(capacity, dtype=rows.dtype))
    return KrylovState(
        basis=tree.basis_recombine(state.basis, rows),
        vector=state.vector,
        matrix=jnp.where(enough, matrix, state.matrix),
        guess=state.guess,
        used=jnp.minimum(state.used, kept),
        num_products=state.num_products,
        num_breakdowns=state.num_breakdowns,
        asymmetry=asymmetry(state),
        rounding=jnp.zeros_like(state.rounding),
        seed=state.seed,
    )
