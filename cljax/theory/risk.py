"""Bounds of the risk by gradients and structure matrices, example by example and over a batch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._batch import Batch, as_batch, weighted_mean
from cljax._pytree import pytree_dataclass, static
from cljax._typing import ApplyFn, PyTree
from cljax.curvature.base import highest_precision
from cljax.curvature.example_jacobian import read_apply
from cljax.curvature.examples import check_chunk, map_examples, score_basis
from cljax.curvature.structure_report import check_scores
from cljax.losses.domain import check_targets
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.theory.entropy import grouped_entropy
from cljax.theory.groups import check_groups, group_means
from cljax.theory.risk_forms import FORMS, Quantities, choose_form
from cljax.theory.structure import is_centered


@pytree_dataclass
class RiskBounds:
    """Bounds of each example's loss and of the risk; with groups, of each example's excess over the floor.

    Attributes:
        kind: the form of the bounds.
        loss: (n,), d_Ω(y, f), at least 0; with groups d_Ω(E[Y|X], f), the excess over the floor.
        lower: (n,), at most ``loss`` where the assumptions hold.
        upper: (n,), at least ``loss``; +inf where the bound is void.
        gradient_energy: (n,), s = |Jᵀ r|² with the residual r; the squared norm of the example's gradient.
        residual_norm: (n,), |r| = |∇Ω*(f) − y|.
        lambda_min: (n,), least eigenvalue of A_x, on the complement of ones for losses on the simplex.
        lambda_max: (n,), greatest eigenvalue.
        rounding: (n,), relative rounding error of s / λ; the bounds are widened by it, and by rounding of |r| and loss.
        void: (n,) bool, no upper bound: λ_min is not above rounding, or Ω has no constant for it.
        assumptions: for each assumption, (n,) bool: whether it held on the example.
        weight: (n,), weights of the examples.
        floor: scalar, H_Ω(Y|X) with groups, 0 without: no model gets below it.
        risk: scalar, weighted mean loss with the targets given.
        risk_lower: scalar, floor + weighted mean of ``lower``.
        risk_upper: scalar, floor + weighted mean of ``upper``.
        residual: scalar, risk − floor − mean of ``loss``: rounding, unless examples of a group differ in their inputs.
    """

    kind: str = static()
    loss: jax.Array
    lower: jax.Array
    upper: jax.Array
    gradient_energy: jax.Array
    residual_norm: jax.Array
    lambda_min: jax.Array
    lambda_max: jax.Array
    rounding: jax.Array
    void: jax.Array
    assumptions: dict[str, jax.Array]
    weight: jax.Array
    floor: jax.Array
    risk: jax.Array
    risk_lower: jax.Array
    risk_upper: jax.Array
    residual: jax.Array

    @property
    def covered(self) -> jax.Array:
        """(n,) bool: lower ≤ loss ≤ upper."""
        return (self.loss >= self.lower) & (self.loss <= self.upper)

    @property
    def coverage(self) -> jax.Array:
        """Scalar: the weighted share of examples that the bounds cover."""
        return jnp.sum(jnp.where(self.covered, self.weight, 0)) / jnp.sum(self.weight)


def risk_bounds(
    apply_fn: ApplyFn,
    loss: FenchelYoungLoss,
    params: PyTree,
    batch: Batch,
    *,
    kind: str = "auto",
    groups: Any = None,
    chunk_size: int | None = None,
) -> RiskBounds:
    """Bounds of the loss by s / λ_max(A_x) and s / λ_min(A_x), with s the squared norm of the example's gradient.

    The gradient is Jᵀ r with the residual r = ∇Ω*(f) − y, so λ_min |r|² ≤ s ≤ λ_max |r|², and the loss is bounded by
    |r|² from both sides:

    - "squared": the loss is |r|²/2.
    - "softmax": |r|² ≤ KL ≤ |r|²/p_min, for any target on the simplex; λ on the complement of ones.
    - "softmax_log": the same with the tighter log(1 + |r|²/p_min) above.
    - "softmax_one_hot": −log(1 − |r|/√2) ≤ −log p_c ≤ −log(1 − |r|√((K−1)/K)), for one-hot targets; tight. The
      upper bound is that of "softmax_log" where that is less, as when s / λ_min leaves |r| unbounded.
    - "fenchel_young": (m/2)|r|² ≤ d ≤ c(f)|r|², with m the strong convexity of Ω and c from
      ``Regularizer.quadratic_coefficient``; without them there is no bound.
    - "paper_softmax", "paper_fenchel_young": as printed in arXiv:2608.09523, corollary 5.3 (2) and (3), for
      comparison: their upper bounds are wrong, and the lower bound of the second too; ``cljax.theory.risk_forms``
      says how (E1 to E5).

    It may be called inside of jit; there targets are not checked, and only class labels are known to be one-hot.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        loss: a Fenchel-Young loss.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch`` with weights of shape (n,) or none, or a tuple (inputs, targets).
        kind: one of the above; "auto" takes the tightest true one for loss and targets.
        groups: integer ids of equal inputs, shape (n,), see ``theory.group_ids``. Then targets are replaced by the
            mean of their group and the excess over the floor is bounded, as conflicting labels ask for.
        chunk_size: examples worked on at a time, see ``curvature.structure_matrix``.

    Returns:
        Bounds, what they are made of, and which assumptions held. NaN in parameters or inputs gives NaN.

    Raises:
        ValueError: if the kind is not known or not for this loss, targets are out of the domain, groups or weights are
            of the wrong shape, or the batch is empty.
        TypeError: if the loss is no Fenchel-Young loss, ``params`` has a leaf that is not floating, or groups are not
            integers.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, theory
        >>> batch = cljax.Batch(jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
        >>> loss = losses.fenchel_young(losses.shannon())
        >>> found = theory.risk_bounds(lambda w, x: x @ w, loss, jnp.zeros((1, 2)), batch)
        >>> found.kind, round(found.risk.item(), 4), bool(found.covered.all())
        ('softmax_one_hot', 0.6931, True)

    References:
        Our own bounds, of the kind of arXiv:2608.09523, theorem 5.1 and corollary 5.3, with the constants corrected.
    """
    if not isinstance(loss, FenchelYoungLoss):
        raise TypeError(f"loss: expected a Fenchel-Young loss, got {type(loss).__name__}; see losses.fenchel_young")
    batch = as_batch(batch)
    apply_tree, num_scores = check_scores(apply_fn, params, batch.inputs)
    num = batch.num_examples
    shape = jax.eval_shape(apply_tree, params, batch.inputs)
    dtype = tree.work_dtype(shape.dtype)
    weight = jnp.ones(num, dtype) if batch.weight is None else jnp.asarray(batch.weight, dtype)
    if weight.shape != (num,):
        raise ValueError(f"weight: expected shape ({num},), got {weight.shape}; the bounds are per example")
    targets = check_targets(loss, batch.targets, jax.ShapeDtypeStruct((num, num_scores), dtype), weight=batch.weight)
    goals, floor = targets, jnp.zeros((), dtype)
    if groups is not None:
        ids, num_groups = check_groups("groups", groups, num)
        means, totals = group_means(targets, weight, ids, num_groups)
        goals = jnp.where(totals[ids][:, None] == 0, targets, means[ids])
        floor = grouped_entropy(loss.regularizer, targets, weight, ids, num_groups)
    kind = choose_form(kind, loss, _are_one_hot(goals, groups is None and jnp.shape(batch.targets) == (num,)))
    chunk_size = check_chunk(chunk_size)
    found = _quantities(loss, apply_tree, params, batch.inputs, targets, goals, FORMS[kind].centered, chunk_size)
    # gradients come in the dtypes of the parameters and of the scores
    return _bounds(kind, loss, found, weight, floor, tree.coarsest_eps((params, shape)))


def _are_one_hot(targets: jax.Array, are_labels: bool) -> bool:
    """Whether all targets are known to be one-hot; inside of jit only class labels are."""
    if isinstance(targets, jax.core.Tracer):
        return are_labels
    return bool(((np.asarray(targets) == 0) | (np.asarray(targets) == 1)).all())


@partial(jax.jit, static_argnames=("loss", "centered", "chunk_size"))
@highest_precision
def _quantities(
    loss: FenchelYoungLoss,
    apply_fn: Any,
    params: PyTree,
    inputs: PyTree,
    targets: jax.Array,
    goals: jax.Array,
    centered: bool | None,
    chunk_size: int | None,
) -> Quantities:
    model = read_apply(apply_fn, params, inputs)
    num_scores = model.scores.shape[0]
    basis = score_basis(model.scores, is_centered("auto", loss, num_scores) if centered is None else centered)
    num = basis.shape[0]
    ones = jnp.full((1, num_scores), num_scores**-0.5, basis.dtype)

    def one(example: tuple[PyTree, jax.Array, jax.Array]) -> Quantities:
        x, target, goal = example
        scores, jacobian = model.jacobian(params, x)
        residual = loss.regularizer.residual(scores, goal)
        # the residual as a direction of its own: its square norm from the matrix alone would be of its rounding
        length = tree.norm(residual)
        unit = tree.invertible(jnp.maximum(length, jnp.finfo(length.dtype).tiny))
        inside = jnp.matmul(basis.T, jnp.matmul(basis, residual / unit))
        matrix = jacobian.gram(jnp.concatenate([basis, inside[None], ones]))
        eigenvalues = jnp.linalg.eigvalsh(matrix[:num, :num])
        scale = jnp.trace(matrix[:num, :num]) + (matrix[-1, -1] if num < num_scores else 0)
        return Quantities(
            scores=scores,
            targets=goal,
            loss=jnp.maximum(loss(scores, goal), 0),
            raw_loss=jnp.maximum(loss(scores, target), 0),
            gradient_energy=unit * unit * matrix[num, num],
            gradient_norm=unit * jnp.sqrt(jnp.maximum(matrix[num, num], 0)),
            residual_norm=length,
            lambda_min=eigenvalues[0],
            lambda_max=eigenvalues[-1],
            scale=scale,
        )

    return map_examples(one, (inputs, targets, goals), chunk_size, model.num_bytes(num + 2))


@partial(jax.jit, static_argnames=("kind", "loss", "coarsest"))
def _bounds(
    kind: str, loss: FenchelYoungLoss, q: Quantities, weight: jax.Array, floor: jax.Array, coarsest: float
) -> RiskBounds:
    eps = float(jnp.finfo(q.loss.dtype).eps)
    # eigenvalues are known to K eps tr A, and to the rounding of the derivatives; s / λ to what that does to it
    known = q.scores.shape[-1] * eps + (coarsest if coarsest > eps else 0)
    positive = q.lambda_min > known * q.scale
    condition = q.scale / jnp.where(positive, q.lambda_min, jnp.inf)
    rounding = jnp.minimum(8 * known * (1 + condition), 1)
    of_residual, of_loss = (8 * eps * error for error in FORMS[kind].errors(loss.regularizer, q))
    greatest, least = jnp.where(q.lambda_max > 0, q.lambda_max, jnp.inf), jnp.where(positive, q.lambda_min, 1)
    low = jnp.maximum(q.gradient_norm * jnp.sqrt((1 - rounding) / greatest) - of_residual, 0)
    high = jnp.where(positive, q.gradient_norm * jnp.sqrt((1 + rounding) / least) + of_residual, jnp.inf)
    lower, upper, assumptions = FORMS[kind].bounds(loss.regularizer, q, low, high)
    lower, upper = jnp.maximum((1 - 8 * eps) * lower - of_loss, 0), (1 + 8 * eps) * upper + of_loss
    nan = jnp.isnan(q.lambda_min) | jnp.isnan(q.gradient_energy)
    lower, upper = (jnp.where(nan, jnp.nan, bound) for bound in (lower, upper))
    excess = weighted_mean(q.loss, weight)
    risk = weighted_mean(q.raw_loss, weight)
    return RiskBounds(
        kind=kind,
        loss=q.loss,
        lower=lower,
        upper=upper,
        gradient_energy=q.gradient_energy,
        residual_norm=q.residual_norm,
        lambda_min=q.lambda_min,
        lambda_max=q.lambda_max,
        rounding=rounding,
        void=jnp.isposinf(upper),
        assumptions=assumptions | {"lambda_min above rounding": positive},
        weight=weight,
        floor=floor,
        risk=risk,
        risk_lower=floor + weighted_mean(lower, weight),
        risk_upper=floor + weighted_mean(upper, weight),
        residual=risk - floor - excess,
    )
