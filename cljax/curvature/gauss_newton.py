"""Products with the generalized Gauss-Newton matrix Jᵀ ∇²ℓ J."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch, as_batch, expand_weight, no_negative_weight
from cljax._checks import check_inexact_tree
from cljax._pytree import pytree_dataclass, static
from cljax._typing import LossFn, Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.faster_product import faster_product
from cljax.curvature.jacobian import linearize_model
from cljax.curvature.microbatch import Microbatches, plan_microbatches, scan_microbatches
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.objective import check_per_example


@pytree_dataclass
class GaussNewton(LinearOperator):
    """Σ (wᵢ/Σw) Jᵢᵀ ∇²ℓᵢ Jᵢ; made by ``gauss_newton``.

    Attributes:
        apply_fn: callable pytree.
        loss: callable pytree of the per-example loss.
        params: pytree of floating arrays.
        batch: inputs, targets and weights.
        microbatches: None, or how the batch is worked through.
    """

    apply_fn: Any
    loss: Any
    params: PyTree
    batch: Batch
    microbatches: Microbatches | None = static(default=None)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return tree.struct(self.params)

    @property
    def positive_semidefinite(self) -> bool:
        """Whether the loss is a Fenchel-Young loss, convex in the scores, and no weight is known to be below 0."""
        return as_fenchel_young(self.loss) is not None and no_negative_weight(self.batch)

    @highest_precision
    def linearize(self) -> Matvec:
        """The product; the model is linearized once, except for microbatches."""
        if self.microbatches is not None:
            return jax.tree_util.Partial(_microbatched_product, self)
        scores, jvp_fn = linearize_model(self.apply_fn, self.params, self.batch.inputs)
        if scores.ndim < 2:
            raise ValueError(f"apply_fn: expected scores of shape (batch, ..., K), got {scores.shape}; add [:, None]")
        losses = jax.eval_shape(self.loss, scores, self.batch.targets)
        kept = losses.ndim > 0 and losses.shape == scores.shape[:-1][: losses.ndim]
        check_per_example(kept, losses, f"scores of shape {scores.shape}")
        weight = expand_weight(self.batch.weight, losses)
        # a loss may be one number for all tokens of an example
        share = jnp.reshape(weight / jnp.sum(weight), losses.shape + (1,) * (scores.ndim - 1 - losses.ndim))
        return faster_product(jax.tree_util.Partial(_product, self.loss, jvp_fn, scores, self.batch.targets, share))


@highest_precision
def _product(loss: LossFn, jvp_fn: Matvec, scores: jax.Array, targets: Any, share: jax.Array, v: PyTree) -> PyTree:
    middle = share[..., None] * loss_hessian_product(loss, scores, targets, jvp_fn(v))
    return jax.linear_transpose(jvp_fn, v)(middle.astype(scores.dtype))[0]


@highest_precision
def _microbatched_product(op: GaussNewton, v: PyTree) -> PyTree:
    def product_fn(part: Batch, params: PyTree, fns: tuple[Any, Any], v: PyTree) -> PyTree:
        return GaussNewton(*fns, params, part).linearize()(v)

    fns = op.apply_fn, op.loss
    return scan_microbatches(product_fn, op.batch, op.microbatches, op.params, fns, v)  # type: ignore[arg-type]


def as_fenchel_young(loss: Any) -> FenchelYoungLoss | None:
    """The loss if it is a Fenchel-Young loss, else None.

    Args:
        loss: per-example loss, or a callable pytree of it.

    Returns:
        The loss itself.
    """
    loss = loss.func if isinstance(loss, jax.tree_util.Partial) else loss
    return loss if isinstance(loss, FenchelYoungLoss) else None


def loss_hessian_product(loss: LossFn, scores: jax.Array, targets: Any, u: jax.Array) -> jax.Array:
    """∇²ℓ(scores) u of each example.

    Args:
        loss: per-example loss; a Fenchel-Young loss gives ∇²Ω*, any other is differentiated twice in the scores.
        scores: shape (..., K).
        targets: as the loss takes them.
        u: shape (..., K), in the dtype of ``scores``.

    Returns:
        Shape (..., K), in float32 at least.
    """
    dtype = tree.work_dtype(scores.dtype)
    scores, u = scores.astype(dtype), u.astype(dtype)
    fenchel_young = as_fenchel_young(loss)
    if fenchel_young is not None:
        return fenchel_young.regularizer.hessian_product(scores, u)
    return jax.jvp(jax.grad(lambda s: jnp.sum(loss(s, targets))), (scores,), (u,))[1]


def gauss_newton(
    apply_fn: Any, loss: LossFn, params: PyTree, batch: Batch, *, microbatch_size: int | None = None
) -> GaussNewton:
    """Generalized Gauss-Newton matrix of the weighted mean loss, as an operator.

    For a Fenchel-Young loss it is Jᵀ ∇²Ω* J, positive semi-definite, and the exact Fisher information where the loss
    is the log-likelihood of an exponential family (softmax, logistic, least squares).

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K): hashable, or a callable pytree.
        loss: per-example ``loss(scores, targets) -> (batch, ...)``, never reduced.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        microbatch_size: None, or the number of examples that are differentiated at a time; uneven sizes are exact.

    Returns:
        A symmetric operator on the space of ``params``, in their dtypes.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, ``batch`` is no batch, or a function is not hashable.
        ValueError: if the batch is empty or its leading axes differ, or, at the first product, if the loss is reduced
            or the scores have no last axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import curvature, losses
        >>> batch = cljax.Batch(jnp.array([[1.0, 2.0]]), jnp.array([[0.0]]))
        >>> loss = losses.fenchel_young(losses.squared())
        >>> op = curvature.gauss_newton(lambda w, x: x @ w, loss, jnp.zeros((2, 1)), batch)
        >>> (op @ jnp.ones((2, 1))).tolist()
        [[3.0], [6.0]]

    References:
        Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002).
    """
    check_inexact_tree("params", params)
    batch = as_batch(batch)
    fns = as_callable_tree("apply_fn", apply_fn), as_callable_tree("loss", loss)
    return GaussNewton(*fns, params, batch, plan_microbatches(microbatch_size, batch, (fns, params)))
