"""Eigenvalues of the structure matrices A_x = J_x J_xᵀ over a batch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax._batch import Batch, as_batch
from cljax._checks import check_key, check_positive_int, check_tol
from cljax._pytree import pytree_dataclass
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.base import highest_precision
from cljax.curvature.example_jacobian import read_apply
from cljax.curvature.examples import check_chunk, map_examples, score_basis
from cljax.curvature.structure_report import check_scores
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.theory.structure_search import search_extremes

SUBSPACES = ("auto", "full", "centered")
METHODS = ("auto", "dense", "matrix_free")

_MANY_SCORES = 512
"""K above which "auto" takes products, some 100 of two passes each, against K passes and K³ operations."""


@pytree_dataclass
class StructureExtremes:
    """Extreme eigenvalues of structure matrices, of each example and over the batch.

    Attributes:
        per_example_min: (batch,), λ_min(A_x).
        per_example_max: (batch,), λ_max(A_x).
        lambda_min: scalar, least λ_min over examples of weight above 0; NaN if one of them did not converge.
        lambda_max: scalar, greatest λ_max over examples of weight above 0; NaN likewise.
        spread: scalar, log(lambda_max / lambda_min) in nats; +inf where lambda_min is not above rounding.
        spectra: (batch, K) or, on the complement of ones, (batch, K − 1), ascending; None if not asked for.
        converged: (batch, 2) bool, whether λ_min and λ_max are known to the tolerance, see
            ``spectral.Status``; where one is not, it is a Rayleigh quotient: λ_min at most this, λ_max at least.
            Eigenvalues of whole matrices are known to rounding, if finite.
        residual_norms: (batch, 2), |A v − λ v| for λ_min and λ_max: an eigenvalue is within this. None for whole
            matrices.
        num_products: (batch,), products with A_x; None for whole matrices.
    """

    per_example_min: jax.Array
    per_example_max: jax.Array
    lambda_min: jax.Array
    lambda_max: jax.Array
    spread: jax.Array
    spectra: jax.Array | None = None
    converged: jax.Array | None = None
    residual_norms: jax.Array | None = None
    num_products: jax.Array | None = None


def structure_extremes(
    apply_fn: ApplyFn,
    loss: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    subspace: str = "auto",
    chunk_size: int | None = None,
    spectra: bool = False,
    method: str = "auto",
    tol: float = 1e-3,
    max_products: int = 150,
    key: jax.Array | None = None,
) -> StructureExtremes:
    """Extreme eigenvalues of A_x = J_x J_xᵀ over a batch.

    For losses on the simplex the residual, prediction minus target, is always orthogonal to the vector of ones, so A_x
    acts on the complement of ones alone: its eigenvalues there bound the loss more tightly and do not vanish for heads
    whose scores sum to a constant. Memory does not grow with the batch.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        loss: the per-example loss; it decides what "auto" means.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch`` with weights of shape (n,) or none, or a tuple (inputs, targets).
        subspace: "full" for the eigenvalues of A_x, as the papers take them; "centered" for those on the complement of
            ones, for K of at least 2; "auto" for "centered" with Fenchel-Young losses on the simplex.
        chunk_size: examples worked on at a time, see ``curvature.structure_matrix``.
        spectra: whether to return all eigenvalues of each example too.
        method: "dense" for whole matrices, K backward passes and eigenvalues of a (K, K) matrix for each example;
            "matrix_free" for a Lanczos run of each example, whose every product takes a backward and a forward pass,
            60 to 140 of them, most for λ_min; "auto" for "matrix_free" where K is above 512 and
            spectra are not asked for.
        tol: relative residual at which an eigenvalue counts as converged, for "matrix_free".
        max_products: static, most products with each A_x, at least 4, for "matrix_free".
        key: typed PRNG key of the start vector, for "matrix_free"; None for that of seed 0.

    Returns:
        Eigenvalues in squared units of the Jacobian. Rounding may leave λ_min of order −eps λ_max.

    Raises:
        ValueError: if the subspace or the method is not known, K is 1 for "centered", the scores are not of shape
            (batch, K), the batch is empty, weights are not of shape (n,), ``tol`` or ``max_products`` is out of range,
            or "matrix_free" is asked for spectra or on fewer than 2 dimensions.
        TypeError: if ``params`` has a leaf that is not floating, ``apply_fn`` is not hashable, or ``key`` no typed key.

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
    num = batch.num_examples
    if batch.weight is not None and jnp.shape(batch.weight) != (num,):
        raise ValueError(f"weight: expected shape ({num},), got {jnp.shape(batch.weight)}; one for each example")
    centered = is_centered(subspace, loss, num_scores)
    chunk_size = check_chunk(chunk_size)
    if _is_matrix_free(method, num_scores, num_scores - centered, spectra):
        key = jax.random.key(0) if key is None else key
        check_key("key", key)
        max_products = check_positive_int("max_products", max_products, minimum=4)
        options: dict[str, Any] = {"centered": centered, "chunk_size": chunk_size, "max_products": max_products}
        values, *known = search_extremes(apply_tree, params, batch.inputs, key, check_tol("tol", tol), **options)
        return _extremes(values, batch.weight, num_scores, False, *known)
    eigenvalues = _eigenvalues(apply_tree, params, batch.inputs, centered, chunk_size, spectra)
    return _extremes(eigenvalues, batch.weight, num_scores, spectra)


def _is_matrix_free(method: str, num_scores: int, dimension: int, spectra: bool) -> bool:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    if method != "matrix_free":
        return method == "auto" and num_scores > _MANY_SCORES and not spectra
    if spectra:
        raise ValueError("spectra: expected False with method 'matrix_free', got True; use method='dense'")
    if dimension < 2:
        raise ValueError(f"method: expected at least 2 dimensions for 'matrix_free', got {dimension}; use 'dense'")
    return True


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
def _extremes(
    eigenvalues: jax.Array,
    weight: Any,
    num_scores: int,
    spectra: bool,
    residual_norms: jax.Array | None = None,
    converged: jax.Array | None = None,
    num_products: jax.Array | None = None,
) -> StructureExtremes:
    ends = eigenvalues[:, jnp.array([0, -1])]
    known = jnp.isfinite(ends) if converged is None else converged
    counted = jnp.ones(ends.shape[:1], bool) if weight is None else jnp.asarray(weight) > 0
    least = jnp.min(jnp.where(counted, ends[:, 0], jnp.inf))
    greatest = jnp.max(jnp.where(counted, ends[:, 1], -jnp.inf))
    valid = jnp.any(counted) & jnp.all(known | ~counted[:, None], axis=0)
    lambda_min, lambda_max = (jnp.where(valid[i], x, jnp.nan) for i, x in enumerate((least, greatest)))
    spread = jnp.where(is_above_rounding(lambda_min, lambda_max, num_scores), jnp.log(lambda_max / lambda_min), jnp.inf)
    spread = jnp.where(jnp.isnan(lambda_min) | jnp.isnan(lambda_max), jnp.nan, spread)
    whole = eigenvalues if spectra else None
    return StructureExtremes(
        ends[:, 0], ends[:, 1], lambda_min, lambda_max, spread, whole, known, residual_norms, num_products
    )


def is_above_rounding(lambda_min: jax.Array, lambda_max: jax.Array, num_scores: int) -> jax.Array:
    """Whether a least eigenvalue of a (K, K) matrix is more than rounding of the greatest."""
    return lambda_min > num_scores * jnp.finfo(lambda_max.dtype).eps * lambda_max
