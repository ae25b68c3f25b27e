"""Products with the derivative of a gradient by central differences, for gradients that cannot be differentiated.

A step h moves the parameters by h‖v‖. Too short a step drowns in the rounding noise of the gradient, too long a one in
its third derivative: the errors balance at the cube root of the relative noise, in units of the length over which the
gradient changes, for which the norm of the parameters stands. The noise is measured, as a model may compute coarser
than its parameters are stored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree, Scalar
from cljax.curvature.base import highest_precision

GradientFn = Callable[[PyTree], PyTree]

# beyond a tenth of the parameters' norm no difference is a derivative
_GREATEST_NOISE = 1e-3


@highest_precision
def step_length(gradient_fn: GradientFn, params: PyTree) -> Scalar:
    """The length h‖v‖ of the steps, from five gradients.

    The noise is the second difference of the gradient over a distance at which it is all rounding, the signal the
    change of the gradient along itself, over the norm of the parameters.

    Args:
        gradient_fn: gradient at given parameters.
        params: pytree of floating arrays.

    Returns:
        A scalar in units of ‖params‖, at most a tenth of it; where ‖params‖ is 0 a length of 1 stands for it.
    """
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
    length = _or_one(tree.norm(params))
    gradient = tree.to_work(gradient_fn(params))
    along = tree.scale(length / _or_one(tree.norm(gradient)), gradient)
    short, long = eps ** (2 / 3), eps ** (1 / 3)
    # shifts in units of params and of ``along``, then the weights of each gradient in the noise and in the signal
    points = jnp.array(
        [
            [short, 0, 6**-0.5, 0],
            [-short, 0, 6**-0.5, 0],
            [0, long, 0, 0.5 / long],
            [0, -long, 0, -0.5 / long],
        ],
        length.dtype,
    )

    def add(sums: tuple[PyTree, PyTree], point: jax.Array) -> tuple[tuple[PyTree, PyTree], None]:
        at = tree.axpy(point[0], params, tree.axpy(point[1], along, params))
        found = tree.to_work(gradient_fn(at))
        return (tree.axpy(point[2], found, sums[0]), tree.axpy(point[3], found, sums[1])), None

    start = tree.scale(-2 / 6**0.5, gradient), tree.zeros_like(gradient)
    noise, change = jax.lax.scan(add, start, points)[0]
    signal = jnp.maximum(tree.norm(gradient), tree.norm(change))
    relative = jnp.where(signal > 0, tree.norm(noise) / _or_one(signal), 0)
    return length * jnp.clip(relative, eps, max(eps, _GREATEST_NOISE)) ** (1 / 3)


@highest_precision
def central_difference(gradient_fn: GradientFn, params: PyTree, v: PyTree, length: Scalar) -> PyTree:
    """The difference (∇(params + h v) − ∇(params − h v)) / 2h with h‖v‖ = ``length``.

    Args:
        gradient_fn: gradient at given parameters.
        params: pytree of floating arrays.
        v: pytree like ``params``.
        length: scalar.

    Returns:
        A pytree like ``params``, in float32 at least.
    """
    step = length / _or_one(tree.norm(v))
    v = tree.to_work(v)
    ahead, behind = (tree.to_work(gradient_fn(tree.axpy(s, v, params))) for s in (step, -step))
    return tree.scale(0.5 / step, tree.sub(ahead, behind))


def difference_error(gradient_fn: GradientFn, params: PyTree, v: PyTree, length: Scalar) -> Scalar:
    """Relative change of the difference when the step is doubled.

    Where truncation rules, doubling the step makes the error four times as great, and the change is three times the
    error; where rounding rules, it halves the error, and the change is about the error.

    Args:
        gradient_fn: gradient at given parameters.
        params: pytree of floating arrays.
        v: pytree like ``params``.
        length: scalar, h‖v‖ of the difference that is judged.

    Returns:
        A scalar: an estimate of the relative error from above, likely but not certain.
    """
    fine, coarse = (central_difference(gradient_fn, params, v, factor * length) for factor in (1, 2))
    return tree.norm(tree.sub(coarse, fine)) / _or_one(tree.norm(fine))


def _or_one(length: Scalar) -> Scalar:
    return jnp.where(length == 0, 1, length)
