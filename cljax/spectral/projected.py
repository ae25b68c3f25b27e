"""Arithmetic of projected operators, small matrices, where they lie: on the device by JAX, on the host by NumPy.

A host loop has little to calculate with small matrices after each product. As programs of the device that takes longer
to compile than all the rest of the loop; NumPy compiles nothing. The same functions do both.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import get_lapack_funcs

from cljax._quick import quick_jit

_LEAST = 1e-12
"""Columns whose greatest norm is between this and its inverse have norms by their squares, whatever the dtype."""


def on_host(x: Any) -> bool:
    """Whether an array is NumPy's."""
    return isinstance(x, np.ndarray | np.generic)


def namespace(x: Any) -> Any:
    """The functions that work on an array where it lies: ``numpy`` or ``jax.numpy``."""
    return np if on_host(x) else jnp


def matmul(a: Any, b: Any) -> Any:
    """The product of two matrices in full precision."""
    return np.matmul(a, b) if on_host(a) else jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def eigh(matrix: Any) -> tuple[Any, Any]:
    """Eigenvalues of a symmetric matrix, ascending, and its eigenvectors in columns; NaN where there are none."""
    if not on_host(matrix):
        return jnp.linalg.eigh(matrix)
    values, vectors, failed = _syevd(matrix.dtype)(matrix, lower=1)
    if failed or not np.isfinite(matrix).all():
        return np.full_like(matrix[0], np.nan), np.full_like(matrix, np.nan)
    return values, vectors


def bordered(diagonal: Any, sides: Any, block: Any) -> Any:
    """The symmetric matrix of a diagonal (g,), what is below it (w, g), and a block (w, w) behind it."""
    if not on_host(diagonal):
        return jnp.block([[jnp.diag(diagonal), sides.T], [sides, block]])
    num = len(diagonal)
    found = np.zeros((num + len(block),) * 2, diagonal.dtype)
    found[range(num), range(num)] = diagonal
    found[num:, :num], found[:num, num:], found[num:, num:] = sides, sides.T, block
    return found


def column_norms(x: Any) -> Any:
    """Euclidean norms of columns, without care for numbers near the ends of the dtype's range."""
    return namespace(x).sqrt((x * x).sum(0))


def safe_norms(matrix: Any) -> Any:
    """Euclidean norms of columns, without squares of numbers near the ends of the dtype's range."""
    xp = namespace(matrix)
    if xp is np:
        found = column_norms(matrix)
        if _LEAST < found.max() < 1 / _LEAST:
            return found
    greatest = xp.max(xp.abs(matrix))
    unit = xp.where((greatest > 0) & xp.isfinite(greatest), greatest, 1).astype(matrix.dtype)
    return unit * column_norms(matrix / unit)


@functools.cache
def _syevd(dtype: Any) -> Any:
    """The routine that XLA's CPU backend calls: eigenvectors have the same signs, on which warm starts depend."""
    return get_lapack_funcs("syevd", dtype=dtype)


def window(x: Any, start: Any, size: int) -> Any:
    """``size`` rows from ``start`` on."""
    return x[start : start + size] if on_host(x) else jax.lax.dynamic_slice_in_dim(x, start, size)


def with_window(x: Any, start: Any, rows: Any) -> Any:
    """The array with other rows from ``start`` on."""
    if not on_host(x):
        return jax.lax.dynamic_update_slice_in_dim(x, rows, start, 0)
    x = x.copy()
    x[start : start + len(rows)] = rows
    return x


def units(places: Any, size: int, dtype: Any) -> Any:
    """Unit vectors with their 1 in some places: (number of places, ``size``)."""
    xp = namespace(places)
    return (places[:, None] == xp.arange(size)[None]).astype(dtype)


def compiled_on_device(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function of a Krylov state, compiled for states on the device and called as it is for those on the host.

    Args:
        fn: its first argument is the state.
        **options: of ``jax.jit``.

    Returns:
        The function.
    """
    compiled = quick_jit(fn, **options)

    @functools.wraps(fn)
    def call(state: Any, *args: Any, **kwargs: Any) -> Any:
        if not on_host(state.matrix):
            return compiled(state, *args, **kwargs)
        with np.errstate(all="ignore"):  # what is not finite is told by the numbers
            return fn(state, *args, **kwargs)

    return call
