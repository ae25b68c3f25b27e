"""Thick restarts: a full basis is compressed to the Ritz vectors worth keeping, and the run goes on from there."""

import dataclasses

import jax

from cljax import tree
from cljax.spectral.krylov import KrylovState
from cljax.spectral.projected import matmul, namespace, safe_norms, units, window
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


def compress(state: KrylovState, num_top: int, num_bottom: int, done: jax.Array | bool = False) -> KrylovState:
    """Keep Ritz vectors of both ends, and the pending vectors; the relation A Q = Q K still holds, up to ``rounding``.

    Args:
        state: with more used vectors than are kept, and a basis in the accumulation dtypes.
        num_top: how many of the greatest are kept.
        num_bottom: how many of the least are kept.
        done: scalar bool, whether to leave the state as it is, since its run has ended.

    Returns:
        A state with at most num_top + num_bottom used vectors in the same basis.

    References:
        Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIMAX 22 (2000), section 2.
    """
    numbers, rows = numbers_compressed(state, num_top, num_bottom, done)
    return dataclasses.replace(numbers, basis=tree.basis_recombine(state.basis, rows))


def numbers_compressed(
    state: KrylovState, num_top: int, num_bottom: int, done: jax.Array | bool = False
) -> tuple[KrylovState, jax.Array]:
    """What ``compress`` makes of the numbers of a state.

    Ritz vectors are eigenvectors of the symmetric part of K. Of the rest, which products that are not symmetric to
    rounding leave, what lies among the kept vectors stays in K, and the norm of what pointed to the others is carried
    on in ``rounding``: residuals would forget both.

    Args:
        state: as for ``compress``.
        num_top: how many of the greatest are kept.
        num_bottom: how many of the least are kept.
        done: as for ``compress``.

    Returns:
        The state with its vectors left as they are, and (capacity, capacity), rows of coefficients of the new ones.
    """
    xp, capacity, width, kept = namespace(state.matrix), state.capacity, state.width, num_top + num_bottom
    values, vectors, _ = projected_eigh(state)
    index = extreme_indices(state.used, num_top, num_bottom)
    coefficients = vectors[:, index].T
    pending = units(state.used + xp.arange(width), capacity, coefficients.dtype)
    rows = xp.pad(xp.concatenate([coefficients, pending]), ((0, capacity - kept - width), (0, 0)))
    couplings = matmul(window(state.matrix, state.used, width), coefficients.T)
    turned = matmul(vectors.T, matmul(state.matrix, vectors))
    rest = (turned - turned.T)[:, index] / 2
    matrix = xp.concatenate([xp.diag(values[index]) + rest[index], couplings])
    matrix = xp.pad(matrix, ((0, capacity - kept - width), (0, capacity - kept)))
    places = xp.arange(capacity)
    dropped = (places < state.used) & ~xp.any(places[:, None] == index[None], axis=1)
    lost = xp.concatenate([xp.where(dropped[:, None], rest, 0), coefficients.T * state.rounding[:, None]])
    rounding = xp.pad(safe_norms(lost), (0, capacity - kept))
    enough = (state.used >= kept) & ~xp.asarray(done)
    # the identity rather than another branch, which would hold a second basis
    rows = xp.where(enough, rows, xp.eye(capacity, dtype=rows.dtype))
    numbers = dataclasses.replace(
        state,
        matrix=xp.where(enough, matrix, state.matrix),
        used=xp.where(enough, kept, state.used).astype(state.used.dtype),
        asymmetry=asymmetry(state),
        rounding=xp.where(enough, rounding, state.rounding),
    )
    return numbers, rows
