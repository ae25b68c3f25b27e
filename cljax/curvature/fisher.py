"""Products with the Fisher information matrix of a model, in its three forms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch, as_batch, expand_weight, no_negative_weight
from cljax._checks import check_inexact_tree, check_key, check_positive_int
from cljax._pytree import pytree_dataclass, static
from cljax._typing import LossFn, Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision
from cljax.curvature.faster_product import faster_product
from cljax.curvature.gauss_newton import as_fenchel_young, gauss_newton
from cljax.curvature.jacobian import linearize_model
from cljax.curvature.microbatch import Microbatches, plan_microbatches, scan_microbatches
from cljax.losses.bernoulli import Bernoulli
from cljax.losses.poisson import Poisson
from cljax.losses.shannon import Shannon
from cljax.losses.squared import Squared

KINDS = ("exact", "monte_carlo", "empirical")


def _categorical(key: jax.Array, scores: jax.Array) -> jax.Array:
    return jax.nn.one_hot(jax.random.categorical(key, scores), scores.shape[-1], dtype=scores.dtype)


def _events(key: jax.Array, scores: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, jax.nn.sigmoid(scores)).astype(scores.dtype)


def _counts(key: jax.Array, scores: jax.Array) -> jax.Array:
    return jax.random.poisson(key, jnp.exp(scores)).astype(scores.dtype)


def _gaussian(key: jax.Array, scores: jax.Array) -> jax.Array:
    return scores + jax.random.normal(key, scores.shape, scores.dtype)


# the laws of targets whose negative log-likelihood is the loss, up to a term without the scores
LAWS: dict[type, Callable[[jax.Array, jax.Array], jax.Array]] = {
    Shannon: _categorical,
    Bernoulli: _events,
    Poisson: _counts,
    Squared: _gaussian,
}


@pytree_dataclass
class SampledFisher(LinearOperator):
    """Σ (wᵢ/Σw) Jᵢᵀ (meanₛ gᵢₛ gᵢₛᵀ) Jᵢ with gradients gᵢₛ in the scores; made by ``fisher``.

    Attributes:
        apply_fn: callable pytree.
        loss: callable pytree of the per-example loss.
        params: pytree of floating arrays.
        batch: its inputs are a pair, those of the model and the indices of the examples.
        key: typed PRNG key of the sampled targets; None for the batch's own.
        num_samples: targets for each example.
        microbatches: None, or how the batch is worked through.
    """

    apply_fn: Any
    loss: Any
    params: PyTree
    batch: Batch
    key: jax.Array | None
    num_samples: int = static(default=1)
    microbatches: Microbatches | None = static(default=None)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return tree.struct(self.params)

    @property
    def positive_semidefinite(self) -> bool:
        """Whether no weight is known to be below 0."""
        return no_negative_weight(self.batch)

    @highest_precision
    def linearize(self) -> Matvec:
        """The product; the model is linearized and targets are drawn once, except for microbatches."""
        if self.microbatches is not None:
            return jax.tree_util.Partial(_microbatched_product, self)
        inputs, indices = self.batch.inputs
        scores, jvp_fn = linearize_model(self.apply_fn, self.params, inputs)
        work = scores.astype(tree.work_dtype(scores.dtype))
        if self.key is None:
            gradients = _score_gradient(self.loss, work, self.batch.targets)[None]
        else:
            targets = _sample(self.key, indices, self.loss, work, self.num_samples)
            gradients = jax.vmap(partial(_score_gradient, self.loss, work))(targets)
        weight = expand_weight(self.batch.weight, gradients[0, ..., 0])
        share = weight / jnp.sum(weight)
        return faster_product(jax.tree_util.Partial(_product, jvp_fn, gradients, share))


@highest_precision
def _product(jvp_fn: Matvec, gradients: jax.Array, share: jax.Array, v: PyTree) -> PyTree:
    moved = jvp_fn(v)
    along = jnp.sum(gradients * moved.astype(gradients.dtype)[None], axis=-1, keepdims=True)
    middle = share[..., None] * jnp.mean(gradients * along, axis=0)
    return jax.linear_transpose(jvp_fn, v)(middle.astype(moved.dtype))[0]


@highest_precision
def _microbatched_product(op: SampledFisher, v: PyTree) -> PyTree:
    def product_fn(part: Batch, params: PyTree, fns: tuple[Any, Any], key: Any, v: PyTree) -> PyTree:
        return SampledFisher(*fns, params, part, key, op.num_samples).linearize()(v)

    fns = op.apply_fn, op.loss
    return scan_microbatches(product_fn, op.batch, op.microbatches, op.params, fns, op.key, v)  # type: ignore[arg-type]


def _score_gradient(loss: LossFn, scores: jax.Array, targets: Any) -> jax.Array:
    fenchel_young = as_fenchel_young(loss)
    if fenchel_young is not None:
        return fenchel_young.regularizer.residual(scores, fenchel_young.regularizer.encode(targets, scores))
    return jax.grad(lambda s: jnp.sum(loss(s, targets)))(scores)


def _sample(key: jax.Array, indices: jax.Array, loss: Any, scores: jax.Array, num_samples: int) -> jax.Array:
    # the randomness of an example follows from its index: microbatches change nothing
    law = LAWS[type(as_fenchel_young(loss).regularizer)]  # type: ignore[union-attr]

    def of_example(index: jax.Array, score: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), num_samples)
        return jax.vmap(lambda k: law(k, score))(keys)

    return jax.vmap(of_example, out_axes=1)(indices, scores)


def fisher(
    apply_fn: Any,
    loss: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    kind: str = "exact",
    key: jax.Array | None = None,
    num_samples: int = 1,
    microbatch_size: int | None = None,
) -> LinearOperator:
    """Fisher information Σ (wᵢ/Σw) Jᵢᵀ E[∇ℓᵢ ∇ℓᵢᵀ] Jᵢ, with ∇ℓ the gradient of the loss in the scores, as an operator.

    The expectation is over targets that the model itself predicts: the class of a softmax, independent events of a
    logistic model, Poisson counts, or a Gaussian of unit variance for least squares. In these exponential families it
    is ∇²Ω*, so the exact Fisher matrix is the Gauss-Newton matrix. Where a loss has several entries for one example,
    such as tokens, each is an observation of its own.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, ..., K): hashable, or a callable pytree.
        loss: per-example ``loss(scores, targets) -> (batch, ...)``, never reduced. Kinds other than "empirical" need
            the Fenchel-Young loss of ``shannon``, ``bernoulli``, ``poisson`` or ``squared``.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        kind: "exact"; "monte_carlo", the mean over sampled targets, unbiased; or "empirical", with the targets of the
            batch, which is no estimate of the Fisher matrix but the second moment of per-example gradients.
        key: typed PRNG key of the sampled targets, for "monte_carlo" only; they are the same in each product.
        num_samples: targets sampled for each example. The relative error falls with the root of num_samples times the
            number of examples; memory grows by ``num_samples`` times the scores.
        microbatch_size: None, or the number of examples that are differentiated at a time; sizes change nothing but
            rounding.

    Returns:
        A symmetric positive semi-definite operator on the space of ``params``, in their dtypes.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, ``batch`` is no batch, a function is not hashable, or
            ``key`` is no typed PRNG key where one is needed.
        ValueError: if the kind or the law of the loss is not known, a key is given for another kind, the batch is
            empty, or a number is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import curvature, losses
        >>> batch = cljax.Batch(jnp.array([[1.0, 2.0]]), jnp.array([[3.0]]))
        >>> loss = losses.fenchel_young(losses.squared())
        >>> op = curvature.fisher(lambda w, x: x @ w, loss, jnp.zeros((2, 1)), batch, kind="empirical")
        >>> (op @ jnp.ones((2, 1))).tolist()
        [[27.0], [54.0]]

    References:
        Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020), sections 5, 9 and 11.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {list(KINDS)}, got {kind!r}")
    known = as_fenchel_young(loss)
    if kind != "empirical" and (known is None or type(known.regularizer) not in LAWS):
        got = type(known.regularizer if known else loss).__name__
        raise ValueError(
            f"loss: expected a Fenchel-Young loss of shannon, bernoulli, poisson or squared with kind={kind!r}, got "
            f"{got}; use curvature.gauss_newton, or kind='empirical'"
        )
    if kind == "monte_carlo":
        check_key("key", key)
    elif key is not None:
        raise ValueError(f"key: expected None with kind={kind!r}, which draws nothing; use kind='monte_carlo'")
    if kind == "exact":
        return gauss_newton(apply_fn, loss, params, batch, microbatch_size=microbatch_size)
    check_inexact_tree("params", params)
    batch = as_batch(batch)
    indexed = Batch((batch.inputs, jnp.arange(batch.num_examples)), batch.targets, batch.weight)
    fns = as_callable_tree("apply_fn", apply_fn), as_callable_tree("loss", loss)
    num_samples = check_positive_int("num_samples", num_samples)
    microbatches = plan_microbatches(microbatch_size, batch, (fns, params, key))
    return SampledFisher(*fns, params, indexed, key, num_samples, microbatches)
