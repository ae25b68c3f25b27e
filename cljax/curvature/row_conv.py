"""A convolution of images as one along the last axis, whose channels are the rows of the window.

On CPUs two kinds of convolutions are faster so, to the same result up to rounding. What is padded is multiplied too.

* The transpose of a convolution, which every back-propagated score goes through, where it has few channels to make:
  5 x 5 windows from 6 channels to 16 take 2.7 times as long as written this way, 3 to 16 channels 4.6 times, 3 x 3
  windows from 8 to 16 channels 1.3 times; from 16 channels on it is even.
* The derivative in a kernel, itself a convolution, whose window is as large as the image and whose channels are the
  examples: 2.2 times as long from 64 channels to 64 on 32 x 32, 2.3 to 3.7 times for the second kernel of a LeNet. From
  128 channels on the gain is small beside what padding adds, and below half a million entries of window and outputs
  either may be the faster.

``python -m benchmarks run --suite convolutions`` measures the second kind.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FEW_CHANNELS = 8
_LARGE_WINDOW, _MOST_CHANNELS = 2**19, 64
_LEAST_INSIDE = 0.95
"""Of the rows that are multiplied, those that are not padding."""


def can_be_by_rows(eqn: Any) -> bool:
    """Whether an operation is a convolution of images without groups, on a CPU.

    Args:
        eqn: an equation of a jaxpr.

    Returns:
        True if ``convolve_by_rows`` takes it.
    """
    return _window(eqn) is not None


def transposes_pay_by_rows(eqn: Any) -> bool:
    """Whether the transposes of an operation are those of a convolution that is faster by rows on this machine.

    Args:
        eqn: an equation of a jaxpr.

    Returns:
        True for convolutions of images with at most 8 channels, on CPUs.
    """
    shape = _window(eqn)
    return shape is not None and shape[1] <= _FEW_CHANNELS


def pays_by_rows(eqn: Any) -> bool:
    """Whether an operation is a convolution that is itself faster by rows on this machine.

    Args:
        eqn: an equation of a jaxpr.

    Returns:
        True, on CPUs, for convolutions of images with one channel, and for those whose window is large and larger
        than the results, as those of derivatives in a kernel are, unless much of what is multiplied is padding.
    """
    shape = _window(eqn)
    if shape is None:
        return False
    outputs, channels, *window = shape
    images, _, *places = (eqn.outvars[0].aval.shape[axis] for axis in eqn.params["dimension_numbers"].out_spec)
    large = math.prod(window) > math.prod(places) and math.prod(shape) >= _LARGE_WINDOW
    pays = channels == 1 or (large and max(images, outputs) <= _MOST_CHANNELS)
    return pays and _inside(eqn) >= _LEAST_INSIDE


def _window(eqn: Any) -> tuple[int, ...] | None:
    """Outputs, channels, rows and columns of the window of a convolution that can be written by rows."""
    params = eqn.params
    if jax.default_backend() != "cpu" or eqn.primitive.name != "conv_general_dilated":
        return None
    if len(params["window_strides"]) != 2 or params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    shape = tuple(eqn.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec)
    return shape if shape[2] > 1 else None


def _inside(eqn: Any) -> float:
    """Share of the rows under the window, over all its places, that are rows of the image."""
    params = eqn.params
    numbers, (low, _) = params["dimension_numbers"], params["padding"][0]
    height, rows, places = (
        aval.shape[axes[2]]
        for aval, axes in zip((eqn.invars[0].aval, eqn.invars[1].aval, eqn.outvars[0].aval), numbers, strict=True)
    )
    starts = np.arange(places) * params["window_strides"][0] - low
    at = starts[:, None] + np.arange(rows)[None] * params["rhs_dilation"][0]
    row, between = np.divmod(at, params["lhs_dilation"][0])
    return float(np.mean((between == 0) & (row >= 0) & (row < height)))


def convolve_by_rows(eqn: Any, operands: Sequence[jax.Array]) -> jax.Array:
    """The results of such a convolution.

    Args:
        eqn: an equation for which ``can_be_by_rows`` holds.
        operands: images and kernel.

    Returns:
        The same as the convolution, to rounding.
    """
    params = eqn.params
    numbers, (stride, _) = params["dimension_numbers"], params["window_strides"]
    batch, feature, *space = numbers.lhs_spec
    x, kernel = operands[0].transpose(batch, *space, feature), operands[1].transpose(numbers.rhs_spec)
    (low, high), (inner, _) = params["padding"][0], params["lhs_dilation"]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (low, high, inner - 1), (0, 0, 0), (0, 0, 0)))
    num_outputs, channels, rows, columns = kernel.shape
    height, dilation = eqn.outvars[0].aval.shape[numbers.out_spec[2]], params["rhs_dilation"][0]
    extent = (height - 1) * stride + 1
    cuts = [jax.lax.slice_in_dim(x, start, start + extent, stride, 1) for start in range(0, rows * dilation, dilation)]
    x = jnp.concatenate(cuts, axis=-1).reshape(-1, x.shape[2], rows * channels)
    found = jax.lax.conv_general_dilated(
        x,
        kernel.transpose(3, 2, 1, 0).reshape(columns, rows * channels, num_outputs),
        params["window_strides"][1:],
        params["padding"][1:],
        params["lhs_dilation"][1:],
        params["rhs_dilation"][1:],
        ("NWC", "WIO", "NWC"),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    found = found.reshape(-1, height, *found.shape[1:])
    batch, feature, *space = numbers.out_spec
    return found.transpose(*np.argsort([batch, *space, feature]).tolist())
