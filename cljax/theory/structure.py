"""Eigenvalues of the structure matrices A_x = J_x J_xᵀ over a batch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax._batch import Batch, as_batch
from cljax._pytree import pytree_dataclass
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.base import highest_precision
from cljax.curvature.example_jacobian import read_apply
from cljax.curvature.examples import check_chunk, map_examples, score_basis
from cljax.curvature.structure_report import check_scores
from cljax.losses.fenchel_young import FenchelYoungLoss

SUBSPACES = ("auto", "full", "centered")


@pytree_dataclass
class StructureExtremes:
    """Extreme eigenvalues of structure matrices, of each example and over the batch.

    Attributes:
        per_example_min: (batch,), λ_min(A_x).
        per_example_max: (batch,), λ_max(A_x).
        lambda_min: scalar, least λ_min over examples of weight above 0.
        lambda_max: scalar, greatest λ_max over examples of weight above 0.
        spread: scalar, log(lambda_max / lambda_min) in nats; +inf where lambda_min is not above rounding.
        spectra: (batch, K) or, on the complement of ones, (batch, K − 1), ascending; None if not asked for.
    """

    per_example_min: jax.Array
    per_example_max: jax.Array
    lambda_min: jax.Array
    lambda_max: jax.Array
    spread: jax.Array
    spectra: jax.Array | None = None


def structure_extremes(
    apply_fn: ApplyFn,
    loss: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    subspace: str = "auto",
    chunk_size: int | None = None,
    spectra: bool = False,
) -> StructureExtremes:
    """Extreme eigenvalues of A_x = J_x J_xᵀ over a batch.

    For losses on the simplex the residual, prediction minus target, is always orthogonal to the vector of ones, so A_x
    acts on the complement of ones alone: its eigenvalues there bound the loss more tightly and do not vanish for heads
    whose scores sum to a constant. Memory does not grow with the batch.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        loss: the per-example loss; it decides what "auto" means.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        subspace: "full" for the eigenvalues of A_x, as the papers take them; "centered" for those on the complement of
            ones, for K of at least 2; "auto" for "centered" with Fenchel-Young losses on the simplex.
        chunk_size: examples whose Jacobians are held at a time, see ``curvature.structure_matrix``.
        spectra: whether to return all eigenvalues of each example too.

    Returns:
        Eigenvalues in squared units of the Jacobian. Rounding may leave λ_min of order −eps λ_max.

    Raises:
        ValueError: if the subspace is not known, K is 1 for "centered", the scores are not of shape (batch, K), or the
            batch is empty.
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, theory
        >>> batch = cljax.Batch(jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
        >>> loss = losses.fenchel_young(losses.shannon())
        >>> found = theory.structure_extremes(lambda w, x: x @ w, loss, jnp.ones((1, 2)), batch)
        >>> round(found.lambda_min.item(), 3), round(found.lambda_max.item(), 3)
        (1.0, 4.0)

    References:
        arXiv:2608.09523, section 9.3.2 and corollary 5.3; the restriction to the complement of ones is ours.
    """
    batch = as_batch(batch)
    apply_tree, num_scores = check_scores(apply_fn, params, batch.inputs)
    centered = is_centered(subspace, loss, num_scores)
    eigenvalues = _eigenvalues(apply_tree, params, batch.inputs, centered, check_chunk(chunk_size), spectra)
    return _extremes(eigenvalues, batch.weight, num_scores, spectra)


def is_centered(subspace: str, loss: Any, num_scores: int) -> bool:
    """Whether A_x is taken on the complement of ones.

    Args:
        subspace: one of ``SUBSPACES``.
        loss: the per-example loss.
        num_scores: K.

    Returns:
        True or False.

    Raises:
        ValueError: if the subspace is not known, or is "centered" with K = 1.
    """
    if subspace not in SUBSPACES:
        raise ValueError(f"subspace: expected one of {list(SUBSPACES)}, got {subspace!r}")
    on_simplex = isinstance(loss, FenchelYoungLoss) and loss.regularizer.on_simplex
    if subspace == "centered" and num_scores < 2:
        raise ValueError("subspace: expected at least 2 scores for 'centered', got 1; use 'full'")
    return subspace == "centered" or (subspace == "auto" and on_simplex and num_scores > 1)


@partial(jax.jit, static_argnames=("centered", "chunk_size", "spectra"))
@highest_precision
def _eigenvalues(
    apply_fn: Any, params: PyTree, inputs: PyTree, centered: bool, chunk_size: int | None, spectra: bool
) -> jax.Array:
    model = read_apply(apply_fn, params, inputs)
    basis = score_basis(model.scores, centered)

    def one(example: PyTree) -> jax.Array:
        values = jnp.linalg.eigvalsh(model.jacobian(params, example)[1].gram(basis))
        return values if spectra else values[jnp.array([0, -1])]

    return map_examples(one, inputs, chunk_size, model.num_bytes(basis.shape[0]))


@partial(jax.jit, static_argnames=("num_scores", "spectra"))
def _extremes(eigenvalues: jax.Array, weight: Any, num_scores: int, spectra: bool) -> StructureExtremes:
    least, greatest = eigenvalues[:, 0], eigenvalues[:, -1]
    counted = jnp.ones(least.shape, bool) if weight is None else jnp.asarray(weight) != 0
    lambda_min = jnp.min(jnp.where(counted, least, jnp.inf))
    lambda_max = jnp.max(jnp.where(counted, greatest, -jnp.inf))
    spread = jnp.log(lambda_max / jnp.where(is_above_rounding(lambda_min, lambda_max, num_scores), lambda_min, 0))
    lambda_min, lambda_max = (jnp.where(jnp.any(counted), x, jnp.nan) for x in (lambda_min, lambda_max))
    spread = jnp.where(jnp.isnan(lambda_min) | jnp.isnan(lambda_max), jnp.nan, spread)
    return StructureExtremes(least, greatest, lambda_min, lambda_max, spread, eigenvalues if spectra else None)


def is_above_rounding(lambda_min: jax.Array, lambda_max: jax.Array, num_scores: int) -> jax.Array:
    """Whether a least eigenvalue of a (K, K) matrix is more than rounding of the greatest."""
    return lambda_min > num_scores * jnp.finfo(lambda_max.dtype).eps * lambda_max
