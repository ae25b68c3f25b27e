"""Rotations of the pending vectors, so that the next product goes where it is needed most."""

import dataclasses

import jax

from cljax import tree
from cljax.spectral.krylov import KrylovState
from cljax.spectral.projected import matmul, namespace, window, with_window


def krylov_turn(state: KrylovState, direction: jax.Array) -> KrylovState:
    """Rotate the pending vectors so that the first of them is the given combination.

    Args:
        state: between two steps.
        direction: (width,), coefficients in the pending vectors, any scale; zero or NaN leaves them as they are.

    Returns:
        The same spaces and operator in another basis.
    """
    if state.width == 1:
        return state
    matrix = reflection(direction)
    basis = tree.basis_turn(state.basis, state.used, matrix)
    state = dataclasses.replace(state, basis=basis, vector=tree.basis_get(basis, state.used, state.vector))
    return numbers_turned(state, matrix, tree.basis_roundoff(basis))


def reflection(direction: jax.Array) -> jax.Array:
    """The rotation of the pending vectors that makes a combination of them the first, see ``krylov_turn``.

    Args:
        direction: (width,), any scale.

    Returns:
        (width, width), orthogonal and symmetric; the identity for a direction of zeros or NaN.
    """
    xp = namespace(direction)
    length = xp.linalg.norm(direction)
    usable = xp.isfinite(length) & (length > 0)
    unit = xp.where(usable, direction / xp.where(usable, length, 1), 0)
    first = xp.arange(len(unit)) == 0
    sign = xp.where(unit[0] < 0, -1, 1).astype(unit.dtype)
    mirror = unit + xp.where(first, sign, 0)  # the Householder vector; of squared norm 2 (1 + |unit₀|)
    identity = xp.eye(len(unit), dtype=unit.dtype)
    return xp.where(usable, identity - xp.outer(mirror, mirror) / (1 + xp.abs(unit[0])), identity)


def numbers_turned(state: KrylovState, matrix: jax.Array, roundoff: float) -> KrylovState:
    """What a rotation of the pending vectors makes of all numbers of a state, its vectors left as they are.

    Args:
        state: between two steps.
        matrix: (width, width), the rotation.
        roundoff: greatest relative change of an entry of the basis where vectors are written to it.

    Returns:
        The state.
    """
    xp = namespace(state.matrix)
    rows = matmul(matrix, window(state.matrix, state.used, state.width))
    return dataclasses.replace(
        state,
        matrix=with_window(state.matrix, state.used, rows),
        guess=matrix @ state.guess @ matrix,
        rounding=xp.hypot(state.rounding, roundoff * xp.linalg.norm(rows, axis=0)),
    )
