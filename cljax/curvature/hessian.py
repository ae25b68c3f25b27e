"""Products with the Hessian of an objective."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch
from cljax._checks import check_inexact_tree, check_same_struct
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree, Scalar
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.differences import GradientFn, central_difference, difference_error, step_length
from cljax.curvature.faster_product import faster_product
from cljax.curvature.jacobian import can_compile
from cljax.curvature.microbatch import Microbatches, plan_microbatches, scan_microbatches

METHODS = ("auto", "forward_over_reverse", "reverse_over_reverse", "finite_difference")


@pytree_dataclass
class Hessian(LinearOperator):
    """∇²_params of ``objective_fn(params, *args)``; made by ``hessian``.

    Attributes:
        objective_fn: callable pytree.
        params: pytree of floating arrays.
        args: further arguments of the objective.
        method: one of ``METHODS``.
        microbatches: None, or how the batch is worked through.
    """

    objective_fn: Any
    params: PyTree
    args: tuple[Any, ...]
    method: str = static(default="auto")
    microbatches: Microbatches | None = static(default=None)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return tree.struct(self.params)

    @property
    def method_used(self) -> str:
        """The method that products use: "auto" decided, without running anything."""
        return _resolve(self.method, self.objective_fn, self.params, self.args)

    @highest_precision
    def linearize(self) -> Matvec:
        """The product; what forward mode stores is stored once, except for microbatches."""
        method = self.method_used
        if method == "finite_difference":
            return jax.tree_util.Partial(_difference, self, step_length(_whole_gradient(self), self.params))
        if self.microbatches is None:
            return faster_product(_derivative(method, self.objective_fn, self.params, self.args))
        return jax.tree_util.Partial(_microbatched_product, dataclasses.replace(self, method=method))

    def error_estimate(self, v: PyTree) -> Scalar:
        """Relative error ‖found − A v‖ / ‖A v‖ of one product.

        Args:
            v: a pytree of the structure, shapes and dtypes of ``struct``.

        Returns:
            A scalar. By differences: measured, by doubling the step; likely from above, but no bound. By the other
            methods, whose products are right to rounding: the eps of the coarsest dtype, not measured.

        Raises:
            ValueError: if structure or shapes of ``v`` differ from ``struct``.
            TypeError: if dtypes differ.
        """
        check_same_struct("v", v, self.struct)
        if self.method_used != "finite_difference":
            return jnp.asarray(max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(self.struct)))
        return _error_estimate(self, v)


@highest_precision
def _microbatched_product(op: Hessian, v: PyTree) -> PyTree:
    return _over_batch(partial(product_once, op.method), op, op.params, v)


def _difference(op: Hessian, length: Scalar, v: PyTree) -> PyTree:
    def difference_fn(objective_fn: Any, params: PyTree, args: Any, v: PyTree, length: Scalar) -> PyTree:
        return central_difference(_gradient(objective_fn, args), params, v, length)

    return tree.cast_like(_over_batch(difference_fn, op, op.params, v, length), op.params)


@jax.jit
def _error_estimate(op: Hessian, v: PyTree) -> Scalar:
    gradient_fn = _whole_gradient(op)
    return difference_error(gradient_fn, op.params, v, step_length(gradient_fn, op.params))


def _whole_gradient(op: Hessian) -> GradientFn:
    def gradient_fn(objective_fn: Any, params: PyTree, args: Any) -> PyTree:
        return _gradient(objective_fn, args)(params)

    return partial(_over_batch, gradient_fn, op)


def _over_batch(fn: Any, op: Hessian, params: PyTree, *more: PyTree) -> PyTree:
    """``fn(objective_fn, params, args, *more)``, linear in the objective, on the whole batch or by microbatches."""
    if op.microbatches is None:
        return fn(op.objective_fn, params, op.args, *more)

    def part_fn(part: Batch, params: PyTree, objective_fn: Any, rest: tuple[Any, ...], *more: PyTree) -> PyTree:
        return fn(objective_fn, params, (part, *rest), *more)

    batch, *rest = op.args
    return scan_microbatches(part_fn, batch, op.microbatches, params, op.objective_fn, tuple(rest), *more)


def _gradient(objective_fn: Any, args: tuple[Any, ...]) -> Any:
    def scalar_fn(params: PyTree) -> jax.Array:
        value = objective_fn(params, *args)
        if jnp.shape(value) != ():
            raise ValueError(
                f"objective_fn: expected a scalar, got shape {jnp.shape(value)}; "
                "reduce per-example losses with cljax.losses.objective"
            )
        return value

    return jax.grad(scalar_fn)


def _resolve(method: str, objective_fn: Any, params: PyTree, args: tuple[Any, ...]) -> str:
    if method != "auto":
        return method
    leaves, structure = jax.tree.flatten((objective_fn, params, args))
    case = (structure, *map(jax.typeof, leaves))
    if case in _resolved:
        return _resolved[case]
    found = _find_method(_gradient(objective_fn, args), params)
    if found != "finite_difference":  # that may be an error of the function, which may be mended
        if len(_resolved) >= _MOST_RESOLVED:
            _resolved.clear()
        _resolved[case] = found
    return found


_resolved: dict[Any, str] = {}  # to trace a model twice takes longer than to compile a small one
_MOST_RESOLVED = 64


def _find_method(gradient_fn: Any, params: PyTree) -> str:
    if can_compile(lambda p: jax.jvp(gradient_fn, (p,), (p,))[1], params):
        return "forward_over_reverse"
    if can_compile(lambda p: jax.vjp(gradient_fn, p)[1](p), params):
        return "reverse_over_reverse"
    return "finite_difference"


def _derivative(method: str, objective_fn: Any, params: PyTree, args: tuple[Any, ...]) -> Matvec:
    gradient_fn = _gradient(objective_fn, args)
    if method == "forward_over_reverse":
        return jax.linearize(gradient_fn, params)[1]
    return jax.tree_util.Partial(_only, jax.vjp(gradient_fn, params)[1])


def product_once(method: str, objective_fn: Any, params: PyTree, args: tuple[Any, ...], v: PyTree) -> PyTree:
    """One product for its own sake: forward mode does not store all that ``linearize`` would.

    Args:
        method: one of ``METHODS`` but "auto" and "finite_difference".
        objective_fn: ``objective_fn(params, *args) -> scalar``.
        params: pytree of floating arrays.
        args: further arguments.
        v: pytree like ``params``.

    Returns:
        A pytree like ``params``.
    """
    if method == "forward_over_reverse":
        return jax.jvp(_gradient(objective_fn, args), (params,), (v,))[1]
    return _derivative(method, objective_fn, params, args)(v)


def _only(vjp_fn: Any, v: PyTree) -> PyTree:
    return vjp_fn(v)[0]


def hessian(
    objective_fn: Any, params: PyTree, *args: Any, method: str = "auto", microbatch_size: int | None = None
) -> Hessian:
    """Hessian of a scalar objective in its parameters, as an operator.

    The objective is any function of JAX arrays. Batch-norm statistics must be split out of ``params`` and frozen, and
    dropout switched off, before its Hessian means anything. An L2 penalty is part of the Hessian only where it is part
    of the objective; ``curvature.shift`` adds it.

    A product by differences costs two gradients, and five more at the start for the length of the step. It is not
    linear to rounding, nor symmetric: its error, about the noise of the gradient to the power 2/3, is measured by
    ``op.error_estimate(v)``, and eigenvalues are no better than that.

    Args:
        objective_fn: ``objective_fn(params, *args) -> scalar``: hashable, or a callable pytree. A new lambda at each
            call compiles again each time.
        params: pytree of floating arrays.
        *args: pytrees of arrays, for example one ``cljax.Batch``.
        method: "forward_over_reverse" (jvp of grad); "reverse_over_reverse" (vjp of grad); "finite_difference"
            (central difference of grad); or "auto", the first of them that can be traced: a ``custom_vjp`` has no
            forward mode, and its backward pass may have no derivative at all. A ``stop_gradient`` in a backward pass
            is no failure but a wrong derivative that cannot be seen; ask for differences there. ``op.method_used``
            says which one products use.
        microbatch_size: None, or the number of examples that are differentiated at a time, on all devices together, for
            batches too large for memory. The first of ``args`` must then be a ``cljax.Batch`` and the objective the
            weighted mean of per-example losses, as of ``losses.objective``; uneven sizes are exact through the weights.
            Where the batch is split over devices, each adds up its own part, as many examples at a time on each (the
            size is rounded up), and one sum travels for a product.

    Returns:
        A symmetric operator on the space of ``params``, in their dtypes.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``objective_fn`` is not hashable.
        ValueError: if the method is not known, the batch is empty, or, at the first product, the objective is no
            scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.hessian(lambda w: jnp.sum(w**4), jnp.array([1.0, 2.0]))
        >>> (op @ jnp.ones(2)).tolist()
        [12.0, 48.0]

    References:
        Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
        Nocedal and Wright, Numerical Optimization, 2nd ed. (2006), section 8.1, for the step of a central difference.
    """
    check_inexact_tree("params", params)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    for arg in args:
        if isinstance(arg, Batch):
            _ = arg.num_examples
    objective_fn = as_callable_tree("objective_fn", objective_fn)
    batch, *rest = args or (None,)
    microbatches = plan_microbatches(microbatch_size, batch, (objective_fn, params, rest))
    return Hessian(objective_fn, params, args, method, microbatches)
