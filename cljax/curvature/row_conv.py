"""A convolution of few channels as one along the last axis, whose channels are the rows of the window.

On CPUs the transpose of a convolution, which every back-propagated score goes through, is slow where it has few
channels to make: 5 x 5 windows from 6 channels to 16 take 2.7 times as long as written this way, 3 to 16 channels 4.6
times, 3 x 3 windows from 8 to 16 channels 1.3 times; from 16 channels on it is even. FLOPs are the same within 10 %.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cljax.curvature.sites import Site

_FEW_CHANNELS = 8


def pays_by_rows(site: Site) -> bool:
    """Whether a site is a convolution that is faster by rows on this machine.

    Args:
        site: any site.

    Returns:
        True for convolutions of images with at most 8 channels, on CPUs.
    """
    params = site.eqn.params
    if jax.default_backend() != "cpu" or site.eqn.primitive.name != "conv_general_dilated":
        return False
    if len(params["window_strides"]) != 2 or params["feature_group_count"] != 1:
        return False
    shape = site.eqn.invars[1].aval.shape
    _, channels, rows, _ = (shape[axis] for axis in params["dimension_numbers"].rhs_spec)
    return rows > 1 and channels <= _FEW_CHANNELS


def convolve_by_rows(site: Site, operands: Sequence[jax.Array]) -> jax.Array:
    """The results of such a site.

    Args:
        site: a site for which ``pays_by_rows`` holds.
        operands: images and kernel.

    Returns:
        The same as the convolution, to rounding.
    """
    params = site.eqn.params
    numbers, (stride, _) = params["dimension_numbers"], params["window_strides"]
    batch, feature, *space = numbers.lhs_spec
    x, kernel = operands[0].transpose(batch, *space, feature), operands[1].transpose(numbers.rhs_spec)
    (low, high), (inner, _) = params["padding"][0], params["lhs_dilation"]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (low, high, inner - 1), (0, 0, 0), (0, 0, 0)))
    num_outputs, channels, rows, columns = kernel.shape
    height, dilation = site.result.shape[numbers.out_spec[2]], params["rhs_dilation"][0]
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
