"""Products with the Hessian of an objective."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch
from cljax._checks import check_inexact_tree, check_positive_int
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.jacobian import lacks_forward_mode
from cljax.curvature.microbatch import check_microbatch, scan_microbatches

METHODS = ("auto", "forward_over_reverse", "reverse_over_reverse")


@pytree_dataclass
class Hessian(LinearOperator):
    """∇²_params of ``objective_fn(params, *args)``; made by ``hessian``.

    Attributes:
        objective_fn: callable pytree.
        params: pytree of floating arrays.
        args: further arguments of the objective.
        method: one of ``METHODS``.
        microbatch_size: None, or how many examples are differentiated at a time.
    """

    objective_fn: Any
    params: PyTree
    args: tuple[Any, ...]
    method: str = static(default="auto")
    microbatch_size: int | None = static(default=None)

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
        if self.microbatch_size is None:
            return _derivative(self.method, self.objective_fn, self.params, self.args)
        return jax.tree_util.Partial(_microbatched_product, self)


@highest_precision
def _microbatched_product(op: Hessian, v: PyTree) -> PyTree:
    def product_fn(part: Batch) -> PyTree:
        return _derivative(op.method, op.objective_fn, op.params, (part, *op.args[1:]))(v)

    size = check_positive_int("microbatch_size", op.microbatch_size)
    return scan_microbatches(product_fn, op.args[0], size, op.params)


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
    gradient_fn = _gradient(objective_fn, args)
    return "reverse_over_reverse" if lacks_forward_mode(gradient_fn, params) else "forward_over_reverse"


def _derivative(method: str, objective_fn: Any, params: PyTree, args: tuple[Any, ...]) -> Matvec:
    gradient_fn = _gradient(objective_fn, args)
    if _resolve(method, objective_fn, params, args) == "forward_over_reverse":
        return jax.linearize(gradient_fn, params)[1]
    return jax.tree_util.Partial(_only, jax.vjp(gradient_fn, params)[1])


def _only(vjp_fn: Any, v: PyTree) -> PyTree:
    return vjp_fn(v)[0]


def hessian(
    objective_fn: Any, params: PyTree, *args: Any, method: str = "auto", microbatch_size: int | None = None
) -> Hessian:
    """Hessian of a scalar objective in its parameters, as an operator.

    The objective is any function of JAX arrays. Batch-norm statistics must be split out of ``params`` and frozen, and
    dropout switched off, before its Hessian means anything.

    Args:
        objective_fn: ``objective_fn(params, *args) -> scalar``: hashable, or a callable pytree. A new lambda at each
            call compiles again each time.
        params: pytree of floating arrays.
        *args: pytrees of arrays, for example one ``cljax.Batch``.
        method: "forward_over_reverse" (jvp of grad); "reverse_over_reverse" (vjp of grad); or "auto", the first where
            every function in the objective has a forward mode, else the second.
        microbatch_size: None, or the number of examples that are differentiated at a time, for batches too large for
            memory. The first of ``args`` must then be a ``cljax.Batch`` and the objective the weighted mean of
            per-example losses, as of ``losses.objective``; uneven sizes are exact through the weights.

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
    """
    check_inexact_tree("params", params)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    for arg in args:
        if isinstance(arg, Batch):
            _ = arg.num_examples
    size = check_microbatch(microbatch_size, args[0] if args else None)
    return Hessian(as_callable_tree("objective_fn", objective_fn), params, args, method, size)
