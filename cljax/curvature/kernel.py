"""The tangent kernel J Jᵀ over a batch, and the structure matrices, its diagonal blocks."""

from functools import partial
from typing import Any

import jax

from cljax._checks import check_inexact_tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.example_jacobian import read_apply
from cljax.curvature.examples import check_chunk, map_examples, score_basis
from cljax.curvature.jacobian import linearize_model
from cljax.curvature.structure_report import check_scores


@pytree_dataclass
class TangentKernel(LinearOperator):
    """J Jᵀ on the space of scores; made by ``tangent_kernel``.

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
        """Shapes and dtypes of the scores."""
        return jax.eval_shape(self.apply_fn, self.params, self.inputs)

    @property
    def positive_semidefinite(self) -> bool:
        """True."""
        return True

    @highest_precision
    def linearize(self) -> Matvec:
        """Reverse, then forward mode, linearized once."""
        return jax.tree_util.Partial(
            _kernel_product, linearize_model(self.apply_fn, self.params, self.inputs)[1], self.params
        )


@highest_precision
def _kernel_product(jvp_fn: Matvec, params: PyTree, v: PyTree) -> PyTree:
    return jvp_fn(jax.linear_transpose(jvp_fn, params)(v)[0])


def tangent_kernel(apply_fn: Any, params: PyTree, inputs: PyTree) -> TangentKernel:
    """Tangent kernel J Jᵀ of the whole batch, as an operator on the space of scores.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores``: hashable, or a callable pytree.
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).

    Returns:
        A symmetric positive semi-definite operator; its non-zero eigenvalues are those of Jᵀ J.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.tangent_kernel(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0]]))
        >>> (op @ jnp.ones((1, 1))).item()
        5.0
    """
    check_inexact_tree("params", params)
    return TangentKernel(as_callable_tree("apply_fn", apply_fn), params, inputs)


def structure_matrix(
    apply_fn: Any, params: PyTree, inputs: PyTree, *, centered: bool = False, chunk_size: int | None = None
) -> jax.Array:
    """Structure matrix A_x = J_x J_xᵀ of each example, J_x the Jacobian of its scores in the parameters.

    Each example passes through the model as a batch of one, so the model must not couple examples (no batch norm).

    Kernels of matrix products and convolutions enter by their inputs and back-propagated derivatives, so that memory
    does not grow with their number of entries: see ``curvature.structure_report`` for what is recognised in a model.
    The result is that of whole rows of J_x, to rounding.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).
        centered: whether to restrict A_x to the complement of the vector of ones, on which losses on the simplex
            live: in coordinates of an orthonormal basis of it, Uᵀ A_x U.
        chunk_size: examples worked on at a time; None for as many as fit in 256 MiB, by the estimate of
            ``curvature.structure_report``: activations, and K times what is back-propagated to kernels.

    Returns:
        Shape (batch, K, K), or (batch, K − 1, K − 1) if centered: symmetric positive semi-definite, in float32 at
        least.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.
        ValueError: if the scores are not of shape (batch, K), K is 1 and ``centered`` asked for, or ``chunk_size`` is
            below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> curvature.structure_matrix(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0]])).tolist()
        [[[5.0]]]

    References:
        arXiv:2608.09523, section 9.3.2.
        Novak, Sohl-Dickstein, Schoenholz: Fast finite width neural tangent kernel, ICML 2022.
    """
    apply_tree, num_scores = check_scores(apply_fn, params, inputs)
    if centered and num_scores < 2:
        raise ValueError("centered: expected at least 2 scores, got 1; use centered=False")
    return _structure_matrices(apply_tree, params, inputs, centered, check_chunk(chunk_size))


@partial(jax.jit, static_argnames=("centered", "chunk_size"))
@highest_precision
def _structure_matrices(
    apply_fn: Any, params: PyTree, inputs: PyTree, centered: bool, chunk_size: int | None
) -> jax.Array:
    model = read_apply(apply_fn, params, inputs)
    basis = score_basis(model.scores, centered)
    return map_examples(
        lambda x: model.jacobian(params, x)[1].gram(basis), inputs, chunk_size, model.num_bytes(basis.shape[0])
    )
