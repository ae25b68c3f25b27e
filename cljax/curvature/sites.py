"""Places where a parameter leaf is the kernel of a matrix product or a convolution.

There the derivative in the leaf factors: with inputs x_p at positions p and derivatives δ_p of a score in the place's
results, the gradient is the sum over p of x_p δ_pᵀ. Products with batch axes and grouped convolutions do this group by
group.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cljax.curvature.program import Program, Step, Use

_MOST_OFFSETS = 4096
"""Entries of a convolution's window beyond which its patches are not taken."""


@dataclasses.dataclass(frozen=True)
class Site:
    """A matrix product or a convolution with a kernel.

    Attributes:
        step: index of the operation in the program.
        operand: which operand is the kernel.
        key: equal for sites that use a leaf in the same arrangement.
        num_groups: B, the number of kernels side by side.
        num_positions: P, how often each is applied.
        num_inputs: I, rows of each kernel.
        num_outputs: O, columns of each kernel.
        eqn: the equation of the jaxpr.
    """

    step: int
    operand: int
    key: tuple[Any, ...]
    num_groups: int
    num_positions: int
    num_inputs: int
    num_outputs: int
    eqn: Any

    @property
    def result(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the results."""
        aval = self.eqn.outvars[0].aval
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)

    def input_factor(self, operands: Sequence[jax.Array]) -> jax.Array:
        """The inputs x_p of the kernels: (B, I, P).

        Args:
            operands: of the operation.

        Returns:
            The operand that is not the kernel, patches of it for a convolution.
        """
        if self.eqn.primitive.name == "dot_general":
            return _dot_inputs(self, operands[1 - self.operand])
        return _conv_inputs(self, operands[0])

    def output_factor(self, delta: jax.Array) -> jax.Array:
        """An array of the shape of the results, rearranged: (B, P, O).

        Args:
            delta: an array like ``result``.

        Returns:
            The same entries; the transpose of this map is its inverse.
        """
        if self.eqn.primitive.name == "dot_general":
            return _dot_outputs(self, delta)
        return _conv_outputs(self, delta)


def find_site(program: Program, use: Use) -> Site | str:
    """Read a use of a leaf as a site.

    Args:
        program: the program.
        use: a use of a leaf of its.

    Returns:
        The site, or why it is none.
    """
    if use.step is None:
        return "is among the scores"
    step = program.steps[use.step]
    if step.name == "dot_general":
        return _dot_site(step, use)
    if step.name == "conv_general_dilated":
        return _conv_site(step, use)
    return f"enters {step.name}"


def _dot_site(step: Step, use: Use) -> Site | str:
    (left, right), (left_batch, right_batch) = step.eqn.params["dimension_numbers"]
    contracting, batch = (left, left_batch) if use.operand == 0 else (right, right_batch)
    shape = step.eqn.invars[use.operand].aval.shape
    num_groups, num_inputs = (math.prod(shape[axis] for axis in axes) for axes in (batch, contracting))
    num_results = math.prod(step.eqn.outvars[0].aval.shape)
    size = math.prod(shape)
    if not size or not num_results:
        return "is empty"
    num_outputs = size // (num_groups * num_inputs)
    key = ("dot_general", use.view.layout, shape, tuple(sorted(contracting)), tuple(sorted(batch)))
    num_positions = num_results // (num_groups * num_outputs)
    return Site(use.step or 0, use.operand, key, num_groups, num_positions, num_inputs, num_outputs, step.eqn)


def _by_kernel_axis(site: Site, axes: Sequence[int], kernel_axes: Sequence[int]) -> list[int]:
    """Axes of the other operand in the order of the kernel's axes that they meet."""
    return [axis for _, axis in sorted(zip(kernel_axes, axes, strict=True))]


def _dot_inputs(site: Site, x: jax.Array) -> jax.Array:
    contracting, batch = site.eqn.params["dimension_numbers"]
    meets = _by_kernel_axis(site, contracting[1 - site.operand], contracting[site.operand])
    groups = _by_kernel_axis(site, batch[1 - site.operand], batch[site.operand])
    free = [axis for axis in range(x.ndim) if axis not in {*meets, *groups}]
    return x.transpose(*groups, *meets, *free).reshape(site.num_groups, site.num_inputs, site.num_positions)


def _dot_outputs(site: Site, delta: jax.Array) -> jax.Array:
    _, batch = site.eqn.params["dimension_numbers"]
    groups = _by_kernel_axis(site, range(len(batch[0])), batch[site.operand])
    contracting = site.eqn.params["dimension_numbers"][0][site.operand]
    num_kernel = site.eqn.invars[site.operand].aval.ndim - len(contracting) - len(groups)
    rest = list(range(len(groups), delta.ndim))
    # the left operand's axes come first
    kernel, free = (
        (rest[:num_kernel], rest[num_kernel:])
        if site.operand == 0
        else (
            rest[len(rest) - num_kernel :],
            rest[: len(rest) - num_kernel],
        )
    )
    return delta.transpose(*groups, *free, *kernel).reshape(site.num_groups, site.num_positions, site.num_outputs)


def _conv_site(step: Step, use: Use) -> Site | str:
    params = step.eqn.params
    if use.operand == 0:
        return "is the input of a convolution"
    if params["batch_group_count"] != 1:
        return "is the kernel of a convolution with batch groups"
    shape = step.eqn.invars[1].aval.shape
    out_axis, in_axis, *window = params["dimension_numbers"].rhs_spec
    num_offsets = math.prod(shape[axis] for axis in window)
    num_groups = params["feature_group_count"]
    num_results = math.prod(step.eqn.outvars[0].aval.shape)
    if not num_results or not math.prod(shape):
        return "is empty"
    if num_offsets > _MOST_OFFSETS:
        return f"is the kernel of a convolution with a window of {num_offsets} entries"
    key = ("conv", use.view.layout, shape, params["dimension_numbers"].rhs_spec, num_groups)
    num_positions = num_results // shape[out_axis]
    num_outputs = shape[out_axis] // num_groups
    return Site(use.step or 0, 1, key, num_groups, num_positions, num_offsets * shape[in_axis], num_outputs, step.eqn)


def _conv_inputs(site: Site, x: jax.Array) -> jax.Array:
    """Patches, by shifts along one axis after the other."""
    params, shape = site.eqn.params, site.eqn.invars[1].aval.shape
    numbers = params["dimension_numbers"]
    # axis by axis, positions last: each cut is a copy of whole stretches of memory
    x = x.transpose(numbers.lhs_spec)
    dilated = zip(params["padding"], params["lhs_dilation"], strict=True)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *((a, b, d - 1) for (a, b), d in dilated)])
    num_batch, num_offsets, num_cuts = x.shape[0], 1, 0
    for axis, kernel_axis, out_axis in zip(range(2, x.ndim), numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        stride, dilation = params["window_strides"][axis - 2], params["rhs_dilation"][axis - 2]
        extent = (site.result.shape[out_axis] - 1) * stride + 1
        starts = range(0, shape[kernel_axis] * dilation, dilation)
        cuts = [jax.lax.slice_in_dim(x, start, start + extent, stride, axis + num_cuts) for start in starts]
        x, num_cuts, num_offsets = jnp.stack(cuts), num_cuts + 1, num_offsets * len(cuts)
    patches = x.reshape(num_offsets, num_batch, site.num_groups, -1, site.num_positions // num_batch)
    return patches.transpose(2, 0, 3, 1, 4).reshape(site.num_groups, site.num_inputs, site.num_positions)


def _conv_outputs(site: Site, delta: jax.Array) -> jax.Array:
    batch, feature, *space = site.eqn.params["dimension_numbers"].out_spec
    delta = delta.transpose(batch, *space, feature).reshape(site.num_positions, site.num_groups, site.num_outputs)
    return delta.transpose(1, 0, 2)
