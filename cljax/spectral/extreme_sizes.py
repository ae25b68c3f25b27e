"""What a search for extreme eigenpairs can be asked for, by the sizes of things."""

import dataclasses
from typing import Any

from cljax._checks import check_positive_int
from cljax.spectral.goal import min_steps
from cljax.spectral.memory import Memory


def check_sizes(num_top: int, num_bottom: int, max_products: int, dimension: int) -> tuple[int, int, int]:
    """What can be known to be wrong before anything is multiplied.

    Args:
        num_top: as for ``extreme_eigenpairs``.
        num_bottom: as for ``extreme_eigenpairs``.
        max_products: as for ``extreme_eigenpairs``.
        dimension: of the operator.

    Returns:
        The first three, as Python integers.

    Raises:
        ValueError: if they do not fit together or the dimension.
        TypeError: if one of them is no integer.
    """
    num_top = check_positive_int("num_top", num_top, minimum=0)
    num_bottom = check_positive_int("num_bottom", num_bottom, minimum=0)
    num_pairs = num_top + num_bottom
    if not 1 <= num_pairs <= dimension:
        raise ValueError(
            f"num_top + num_bottom: expected 1 to {dimension}, the dimension of the operator, "
            f"got {num_top} + {num_bottom}"
        )
    least = min(dimension, min_steps(num_pairs))
    return num_top, num_bottom, check_positive_int("max_products", max_products, minimum=least)


def least_basis(num_top: int, num_bottom: int, width: int) -> int:
    """Vectors that a bounded basis must hold: the wanted ones, ``width`` pending ones, and four to work with."""
    return num_top + num_bottom + 4 + width


def check_memory(memory: Any, num_top: int, num_bottom: int, width: int, dimension: int) -> Memory:
    """Check that a basis has room for a search.

    Args:
        memory: what the caller gave.
        num_top: greatest eigenvalues.
        num_bottom: least eigenvalues.
        width: pending vectors.
        dimension: of the operator.

    Returns:
        The same, without a ``basis_size`` that can never be full.

    Raises:
        ValueError: if there are too few vectors.
        TypeError: if it is no ``Memory``.
    """
    if not isinstance(memory, Memory):
        raise TypeError(
            f"memory: expected a spectral.Memory, got {type(memory).__name__}; such as Memory(basis_size=20)"
        )
    least = least_basis(num_top, num_bottom, width)
    if memory.basis_size is None or memory.basis_size >= dimension + width:
        return dataclasses.replace(memory, basis_size=None)
    if memory.basis_size < least:
        raise ValueError(
            f"basis_size: expected at least {least} vectors for {num_top} + {num_bottom} pairs and {width} pending "
            f"ones, got {memory.basis_size}"
        )
    return memory
