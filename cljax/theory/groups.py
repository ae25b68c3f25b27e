"""Groups of examples: the same input, the same feature, told by explicit ids."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._checks import check_positive_int


def group_ids(*arrays: Any) -> np.ndarray:
    """Ids of equal rows: examples whose rows are bitwise equal in all arrays share an id.

    Args:
        *arrays: arrays with leading axis (n, ...).

    Returns:
        int32 (n,), ids 0..G−1.

    Raises:
        ValueError: if there is no array, an array is a scalar, or the lengths differ.

    Example:
        >>> import numpy as np
        >>> from cljax import theory
        >>> theory.group_ids(np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])).tolist()
        [1, 0, 1]
    """
    shapes = [np.shape(a) for a in arrays]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0]:
        raise ValueError(f"arrays: expected arrays of one length, got shapes {shapes}")
    rows = [np.asarray(a).reshape(shape[0], math.prod(shape[1:])) for a, shape in zip(arrays, shapes, strict=True)]
    # NaN, unequal to itself, becomes 0 and a mark
    unequal = [np.not_equal(row, row) for row in rows]
    rows = [np.where(nan, row.dtype.type(0), row) if nan.any() else row for nan, row in zip(unequal, rows, strict=True)]
    # + 0 makes −0 the same as 0
    parts = [row + row.dtype.type(0) for row in rows] + [nan for nan in unequal if nan.any()]
    columns = [np.unique(part, axis=0, return_inverse=True)[1].reshape(-1) for part in parts]
    return np.unique(np.stack(columns, -1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def check_groups(name: str, groups: Any, num_examples: int) -> tuple[np.ndarray, int]:
    """Group ids as 0..G−1.

    Args:
        name: the argument's name, for the message.
        groups: any integers, shape (n,); None for one group.
        num_examples: n.

    Returns:
        The ids, int32 (n,), and G.

    Raises:
        ValueError: if the shape is not (n,).
        TypeError: if the ids are not integers: features have to be quantized first.
    """
    if groups is None:
        return np.zeros(num_examples, np.int32), 1
    ids = np.asarray(groups)
    if ids.shape != (num_examples,):
        raise ValueError(f"{name}: expected one id an example, shape ({num_examples},), got {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            f"{name}: expected integer ids, got {ids.dtype}; quantize features with theory.quantize, "
            "or find equal rows with theory.group_ids"
        )
    known, inverse = np.unique(ids, return_inverse=True)
    return inverse.reshape(-1).astype(np.int32), len(known)


def check_refines(fine: np.ndarray, coarse: np.ndarray, names: tuple[str, str]) -> None:
    """Require that coarse groups are unions of fine ones.

    Args:
        fine: ids 0..G−1.
        coarse: ids of the same examples.
        names: the arguments' names, for the message.

    Raises:
        ValueError: if two examples of one fine group are in different coarse ones.
    """
    first = np.full(fine.max(initial=0) + 1, -1)
    first[fine[::-1]] = np.arange(len(fine))[::-1]
    broken = np.flatnonzero(coarse != coarse[first[fine]])
    if broken.size:
        i = int(broken[0])
        raise ValueError(
            f"{names[1]}: expected a function of {names[0]}, but examples {int(first[fine[i]])} and {i} of one group "
            "differ; compute both from the same inputs"
        )


def group_means(values: jax.Array, weight: jax.Array, groups: Any, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Weighted mean of each group, summed in float64 whatever the mode.

    Args:
        values: (n, K).
        weight: (n,).
        groups: (n,), ids 0..G−1.
        num_groups: G, static.

    Returns:
        Means (G, K), 0 for groups without weight, and the groups' weights (G,), in the arguments' dtypes.
    """
    with jax.enable_x64(True):
        means, totals = sum_groups(values.astype(jnp.float64), weight.astype(jnp.float64), groups, num_groups)
        return means.astype(values.dtype), totals.astype(weight.dtype)


@partial(jax.jit, static_argnames="num_groups")
def sum_groups(values: jax.Array, weight: jax.Array, groups: Any, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """As ``group_means``, in the dtype of the arguments."""
    totals = jax.ops.segment_sum(weight, groups, num_groups)
    # a row of weight 0 does not count even where it is not finite
    weighted = jnp.where(weight[:, None] == 0, 0, weight[:, None] * values)
    sums = jax.ops.segment_sum(weighted, groups, num_groups)
    return sums / jnp.where(totals == 0, 1, totals)[:, None], totals


def quantize(features: Any, num_bins: int) -> np.ndarray:
    """Features as integer codes: each column in equal bins between its least and greatest value.

    Args:
        features: (n, ...), n at least 1, finite floats, such as activations of a layer.
        num_bins: bins for each column, at least 1.

    Returns:
        int64 (n, ...): bin numbers 0..num_bins−1; a constant column is all 0.

    Raises:
        TypeError: if ``num_bins`` is no integer.
        ValueError: if a value is not finite, there is none, or ``num_bins`` is below 1.

    Example:
        >>> import numpy as np
        >>> from cljax import theory
        >>> theory.quantize(np.array([[0.0], [0.4], [1.0]]), 2).tolist()
        [[0], [0], [1]]
    """
    values = np.asarray(features, float)
    num_bins = check_positive_int("num_bins", num_bins)
    if values.ndim == 0 or not values.shape[0]:
        raise ValueError(f"features: expected shape (n, ...), n at least 1, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("features: expected finite values, got NaN or infinity; drop those examples")
    low, high = values.min(axis=0), values.max(axis=0)
    # powers of two scale exactly, and to entries of at most 1, whose differences neither overflow nor vanish
    _, exponent = np.frexp(np.maximum(np.abs(low), np.abs(high)))
    values, low, high = (np.ldexp(x, -exponent) for x in (values, low, high))
    width = np.where(high > low, high - low, 1)
    return np.minimum((num_bins * ((values - low) / width)).astype(np.int64), num_bins - 1)
