"""Extreme eigenvalues of the structure matrices A_x = J_x J_xᵀ over a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._batch import Batch, as_batch
from cljax._pytree import pytree_dataclass
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.kernel import structure_matrix
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.shannon import Shannon

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
    """

    per_example_min: jax.Array
    per_example_max: jax.Array
    lambda_min: jax.Array
    lambda_max: jax.Array
    spread: jax.Array


def structure_extremes(
    apply_fn: ApplyFn,
    loss: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    subspace: str = "auto",
    chunk_size: int | None = None,
) -> StructureExtremes:
    """Extreme eigenvalues of A_x = J_x J_xᵀ over a batch.

    For the softmax loss the residual softmax(f) − y is always orthogonal to the vector of ones, so A_x acts on the
    complement of ones alone: its eigenvalues there bound the loss more tightly and do not vanish for heads whose
    scores sum to a constant.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        loss: the per-example loss; it decides what "auto" means.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch``, or a tuple (inputs, targets).
        subspace: "full" for the eigenvalues of A_x, as the papers take them; "centered" for those on the complement of
            ones, for K of at least 2; "auto" for "centered" with the Fenchel-Young loss of ``losses.shannon()``.
        chunk_size: see ``curvature.structure_matrix``.

    Returns:
        Eigenvalues in squared units of the Jacobian. Rounding may leave λ_min of order −eps λ_max.

    Raises:
        ValueError: if the subspace is not known, K is 1 for "centered", or the batch is empty.

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
    if subspace not in SUBSPACES:
        raise ValueError(f"subspace: expected one of {list(SUBSPACES)}, got {subspace!r}")
    batch = as_batch(batch)
    matrices = structure_matrix(apply_fn, params, batch.inputs, chunk_size=chunk_size)
    if subspace == "centered" or (subspace == "auto" and is_softmax(loss)):
        matrices = _centered(matrices)
    return _extremes(matrices, batch.weight)


def is_softmax(loss: Any) -> bool:
    """Whether ``loss`` is the Fenchel-Young loss of negative Shannon entropy."""
    return isinstance(loss, FenchelYoungLoss) and isinstance(loss.regularizer, Shannon)


def _centered(matrices: jax.Array) -> jax.Array:
    num_scores = matrices.shape[-1]
    if num_scores < 2:
        raise ValueError("subspace: expected at least 2 scores for 'centered', got 1; use 'full'")
    # orthonormal basis of the complement of ones: the columns after the first of a Householder reflection
    reflector = np.ones(num_scores)
    reflector[0] += np.sqrt(num_scores)
    reflection = np.eye(num_scores) - 2 * np.outer(reflector, reflector) / (reflector @ reflector)
    basis = jnp.asarray(reflection[:, 1:], matrices.dtype)
    return jnp.einsum("ki,nkl,lj->nij", basis, matrices, basis, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _extremes(matrices: jax.Array, weight: Any) -> StructureExtremes:
    eigenvalues = jnp.linalg.eigvalsh(matrices)
    least, greatest = eigenvalues[:, 0], eigenvalues[:, -1]
    counted = jnp.ones(least.shape, bool) if weight is None else jnp.asarray(weight) != 0
    lambda_min = jnp.min(jnp.where(counted, least, jnp.inf))
    lambda_max = jnp.max(jnp.where(counted, greatest, -jnp.inf))
    floor = matrices.shape[-1] * jnp.finfo(matrices.dtype).eps * lambda_max
    spread = jnp.log(lambda_max / jnp.where(lambda_min > floor, lambda_min, 0))
    spread = jnp.where(jnp.isnan(lambda_min) | jnp.isnan(lambda_max), jnp.nan, spread)
    return StructureExtremes(least, greatest, lambda_min, lambda_max, spread)
