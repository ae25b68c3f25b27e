"""Products with the generalized Gauss-Newton matrix of a model with many scores, a chunk of tokens at a time."""

import jax

from cljax import tree
from cljax._batch import Batch, as_batch, no_negative_weight
from cljax._checks import check_inexact_tree
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, highest_precision
from cljax.curvature.gauss_newton import as_fenchel_young, loss_hessian_product
from cljax.curvature.jacobian import linearize_model
from cljax.curvature.microbatch import Microbatches, plan_microbatches, scan_microbatches
from cljax.losses.chunked import ChunkedObjective, scan_tokens, token_share


@pytree_dataclass
class ChunkedGaussNewton(LinearOperator):
    """Σ (wᵢ/Σw) Jᵢᵀ ∇²ℓᵢ Jᵢ over tokens, J that of head and features; made by ``chunked_gauss_newton``.

    Attributes:
        params: pytree of floating arrays.
        batch: inputs, targets and weights.
        objective: features, head, loss and chunk size.
        microbatches: None, or how the batch is worked through.
    """

    params: PyTree
    batch: Batch
    objective: ChunkedObjective = static()
    microbatches: Microbatches | None = static(default=None)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return tree.struct(self.params)

    @property
    def positive_semidefinite(self) -> bool:
        """As for ``GaussNewton``."""
        return as_fenchel_young(self.objective.loss) is not None and no_negative_weight(self.batch)

    @highest_precision
    def linearize(self) -> Matvec:
        """The product; the features are linearized once, except for microbatches, the head in each product."""
        if self.microbatches is not None:
            return jax.tree_util.Partial(_microbatched_product, self)
        features, features_jvp_fn = linearize_model(self.objective.features_fn, self.params, self.batch.inputs)
        share = token_share(self.objective, self.params, features, self.batch)
        return _Product(self.params, features_jvp_fn, features, share, self.batch.targets, self.objective)


@pytree_dataclass
class _Product:
    """The product, with the features linearized.

    Attributes:
        params: pytree of floating arrays.
        features_jvp_fn: Jacobian of the features in the parameters, as a product.
        features: (batch, ..., d).
        share: w / Σw of each token, (batch, ...).
        targets: pytree of arrays (batch, ...).
        objective: features, head, loss and chunk size.
    """

    params: PyTree
    features_jvp_fn: Matvec
    features: jax.Array
    share: jax.Array
    targets: PyTree
    objective: ChunkedObjective = static()

    @highest_precision
    def __call__(self, v: PyTree) -> PyTree:
        """The sum over chunks of Jᵀ ∇²ℓ J v."""
        loss, params = self.objective.loss, self.params

        def head(point: tuple[PyTree, jax.Array], _: None) -> jax.Array:
            return self.objective.head_fn(*point)

        def step(both: tuple[jax.Array, jax.Array], share: jax.Array, targets: PyTree) -> tuple[PyTree, jax.Array]:
            features, tangent = both
            scores, jvp_fn = linearize_model(head, (params, features), None)
            middle = share[:, None] * loss_hessian_product(loss, scores, targets, jvp_fn((v, tangent)))
            return jax.linear_transpose(jvp_fn, (v, tangent))(middle.astype(scores.dtype))[0]

        zero = tree.to_work(tree.zeros_like(params))
        both = self.features, self.features_jvp_fn(v)
        total, pulled = scan_tokens(step, zero, both, self.share, self.targets, self.objective.chunk_size)
        through_features = jax.linear_transpose(self.features_jvp_fn, v)(pulled)[0]
        return tree.cast_like(tree.axpy(1, through_features, total), params)


@highest_precision
def _microbatched_product(op: ChunkedGaussNewton, v: PyTree) -> PyTree:
    def product_fn(part: Batch, params: PyTree, v: PyTree) -> PyTree:
        return ChunkedGaussNewton(params, part, op.objective).linearize()(v)

    return scan_microbatches(product_fn, op.batch, op.microbatches, op.params, v)  # type: ignore[arg-type]


def chunked_gauss_newton(
    objective: ChunkedObjective, params: PyTree, batch: Batch, *, microbatch_size: int | None = None
) -> ChunkedGaussNewton:
    """Generalized Gauss-Newton matrix of a chunked objective, as an operator.

    It is ``curvature.gauss_newton`` of the model ``head_fn(params, features_fn(params, inputs))`` up to rounding, with
    the scores of at most ``objective.chunk_size`` tokens alive at a time. A product costs a single product of
    ``gauss_newton``, at most a quarter more than one of many with the same linearization.

    Args:
        objective: from ``losses.chunked_objective``.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        microbatch_size: None, or the number of examples that are differentiated at a time, where the features too are
            large for memory; uneven sizes are exact.

    Returns:
        A symmetric operator on the space of ``params``, in their dtypes.

    Raises:
        TypeError: if ``objective`` is no chunked objective, ``params`` has a leaf that is not floating, or ``batch``
            is no batch.
        ValueError: if the batch is empty, its leading axes differ, or, at the first product, shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import curvature, losses
        >>> loss = losses.fenchel_young(losses.squared())
        >>> objective = losses.chunked_objective(lambda w, x: 2 * x, lambda w, h: h @ w, loss, chunk_size=1)
        >>> batch = cljax.Batch(jnp.eye(2), jnp.zeros((2, 1)))
        >>> op = curvature.chunked_gauss_newton(objective, jnp.zeros((2, 1)), batch)
        >>> (op @ jnp.ones((2, 1))).tolist()
        [[2.0], [2.0]]

    References:
        Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002).
    """
    if not isinstance(objective, ChunkedObjective):
        raise TypeError(
            f"objective: expected one made by losses.chunked_objective, got {type(objective).__name__}; "
            "use curvature.gauss_newton for a model that is one function"
        )
    check_inexact_tree("params", params)
    batch = as_batch(batch)
    return ChunkedGaussNewton(params, batch, objective, plan_microbatches(microbatch_size, batch, params))
