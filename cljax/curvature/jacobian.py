"""Products with the Jacobian of a model's scores in its parameters, and with its transpose."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_inexact_tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.program import any_equation


@pytree_dataclass
class Jacobian(LinearOperator):
    """J = ∂ apply_fn(params, inputs) / ∂ params; made by ``jacobian``.

    Attributes:
        apply_fn: callable pytree.
        params: pytree of floating arrays.
        inputs: inputs of the model.
    """

    apply_fn: Any
    params: PyTree
    inputs: PyTree

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return tree.struct(self.params)

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the scores."""
        return jax.eval_shape(self.apply_fn, self.params, self.inputs)

    @property
    def symmetric(self) -> bool:
        """False."""
        return False

    @property
    def T(self) -> LinearOperator:
        """Jᵀ: scores -> params."""
        return JacobianTranspose(self)

    @highest_precision
    def linearize(self) -> Matvec:
        """Forward mode, linearized once."""
        return linearize_model(self.apply_fn, self.params, self.inputs)[1]


@pytree_dataclass
class JacobianTranspose(LinearOperator):
    """Jᵀ, made by ``jacobian(...).T``.

    Attributes:
        op: the Jacobian.
    """

    op: Jacobian

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the scores."""
        return self.op.out_struct

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return self.op.struct

    @property
    def symmetric(self) -> bool:
        """False."""
        return False

    @property
    def T(self) -> LinearOperator:
        """The Jacobian."""
        return self.op

    @highest_precision
    def linearize(self) -> Matvec:
        """Reverse mode, with the forward pass done once."""
        return jax.tree_util.Partial(_only, jax.vjp(lambda p: self.op.apply_fn(p, self.op.inputs), self.op.params)[1])


def _only(vjp_fn: Any, v: PyTree) -> PyTree:
    return vjp_fn(v)[0]


def linearize_model(apply_fn: Any, params: PyTree, inputs: PyTree) -> tuple[Any, Matvec]:
    """Scores, and the Jacobian's product, at one point.

    Where a function of the model has a ``custom_vjp`` and with it no forward mode, the product is the transpose of
    reverse mode.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores``.
        params: pytree of floating arrays.
        inputs: inputs of the model.

    Returns:
        Scores, and a callable pytree that can be transposed by ``jax.linear_transpose``.
    """

    def model(p: PyTree) -> PyTree:
        return apply_fn(p, inputs)

    if not lacks_forward_mode(model, params):
        return jax.linearize(model, params)
    scores, pull_fn = jax.vjp(model, params)
    return scores, jax.tree_util.Partial(_push, pull_fn, jax.tree.map(jnp.zeros_like, scores))


def _push(pull_fn: Any, like: PyTree, v: PyTree) -> PyTree:
    return jax.linear_transpose(lambda u: pull_fn(u)[0], like)(v)[0]


def lacks_forward_mode(fn: Any, params: PyTree) -> bool:
    """Whether the derivative of ``fn`` in forward mode cannot be compiled, without running anything.

    Args:
        fn: function of ``params``, differentiated once.
        params: pytree of floating arrays.

    Returns:
        True where a function with a ``custom_vjp`` is in it.
    """
    return not can_compile(lambda p: jax.jvp(fn, (p,), (p,))[1], params)


def can_compile(derivative_fn: Any, params: PyTree) -> bool:
    """Whether a derivative exists as a program, without running anything.

    Args:
        derivative_fn: function of ``params`` that differentiates.
        params: pytree of floating arrays.

    Returns:
        False where tracing fails: with whatever error a primitive, a callback or a backward pass without a derivative
        raises; and where it leaves a placeholder of a ``custom_vjp``.
    """
    try:
        program = jax.make_jaxpr(derivative_fn)(params)
    except Exception:  # an error of the function itself comes back with the derivative that is taken instead
        return False
    # the derivative of a custom_vjp function in forward mode is traced as a placeholder that cannot be compiled
    return not any_equation(program, lambda eqn: eqn.primitive.name == "custom_lin")


def jacobian(apply_fn: Any, params: PyTree, inputs: PyTree) -> Jacobian:
    """Jacobian of a model's scores in its parameters, as an operator params -> scores; ``.T`` is its transpose.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores``: hashable, or a callable pytree.
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).

    Returns:
        An operator that is not symmetric: vectors like ``params``, products like the scores (batch, ..., K).

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> J = curvature.jacobian(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0]]))
        >>> (J @ jnp.ones((2, 1))).tolist(), (J.T @ jnp.ones((1, 1))).tolist()
        ([[3.0]], [[1.0], [2.0]])
    """
    check_inexact_tree("params", params)
    return Jacobian(as_callable_tree("apply_fn", apply_fn), params, inputs)
