"""The gradient energy split into what a model can still learn and what its labels' conflicts hold up."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch, as_batch, weighted_mean
from cljax._pytree import pytree_dataclass
from cljax._typing import ApplyFn, PyTree
from cljax.curvature.base import highest_precision
from cljax.curvature.example_jacobian import read_apply
from cljax.curvature.examples import check_chunk, map_examples
from cljax.curvature.structure_report import check_scores
from cljax.losses.domain import check_targets
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.theory.groups import check_groups, group_means


@pytree_dataclass
class EnergySplit:
    """Gradient energy and its two parts, in squared units of the gradient.

    Attributes:
        total: scalar, E |∇ℓ|², the gradient energy.
        mean_part: scalar, E |J_Xᵀ (∇Ω*(f(X)) − E[Y|X])|²: it vanishes at the optimum.
        noise_part: scalar, E tr(A_X Cov(Y|X)): a floor that no training removes but by making A_X small.
        residual: scalar, total − mean_part − noise_part: rounding, unless examples of a group differ in their inputs.
    """

    total: jax.Array
    mean_part: jax.Array
    noise_part: jax.Array
    residual: jax.Array


def gradient_energy_split(
    apply_fn: ApplyFn,
    loss: FenchelYoungLoss,
    params: PyTree,
    batch: Batch,
    groups: Any,
    *,
    chunk_size: int | None = None,
) -> EnergySplit:
    """Gradient energy as the sum of a mean part and a part from conflicting labels.

    Bounds of the excess risk by gradients must use the mean part: with conflicting labels the gradient energy does not
    vanish at the optimum. With all inputs distinct the two are the same.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        loss: a Fenchel-Young loss.
        params: pytree of floating arrays.
        batch: a ``cljax.Batch`` with weights of shape (n,) or none, or a tuple (inputs, targets).
        groups: integer ids of equal inputs, shape (n,), see ``theory.group_ids``.
        chunk_size: examples worked on at a time; None for as many as fit in 256 MiB.

    Returns:
        The energy, its parts, and how far they are from adding up.

    Raises:
        TypeError: if the loss is no Fenchel-Young loss, or groups are not integers.
        ValueError: if groups are of the wrong length, targets out of the domain, or the batch is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, theory
        >>> batch = cljax.Batch(jnp.ones((2, 1)), jnp.array([[0.0], [2.0]]))
        >>> loss = losses.fenchel_young(losses.squared())
        >>> found = theory.gradient_energy_split(lambda w, x: x @ w, loss, jnp.ones((1, 1)), batch, [0, 0])
        >>> found.total.item(), found.mean_part.item(), found.noise_part.item()
        (1.0, 0.0, 1.0)

    References:
        Our own; the energy is that of arXiv:2608.09523, definition 4.2 (up to its factor 1/(2L)).
    """
    if not isinstance(loss, FenchelYoungLoss):
        raise TypeError(f"loss: expected a Fenchel-Young loss, got {type(loss).__name__}; see losses.fenchel_young")
    batch = as_batch(batch)
    apply_tree, num_scores = check_scores(apply_fn, params, batch.inputs)
    num = batch.num_examples
    dtype = tree.work_dtype(jax.eval_shape(apply_tree, params, batch.inputs).dtype)
    weight = jnp.ones(num, dtype) if batch.weight is None else jnp.asarray(batch.weight, dtype)
    if weight.shape != (num,):
        raise ValueError(f"weight: expected shape ({num},), got {weight.shape}")
    targets = check_targets(loss, batch.targets, jax.ShapeDtypeStruct((num, num_scores), dtype), weight=batch.weight)
    ids, num_groups = check_groups("groups", groups, num)
    chunk_size = check_chunk(chunk_size)
    return _split(loss, apply_tree, params, batch.inputs, targets, weight, ids, num_groups, chunk_size)


@partial(jax.jit, static_argnames=("loss", "num_groups", "chunk_size"))
@highest_precision
def _split(
    loss: FenchelYoungLoss,
    apply_fn: Any,
    params: PyTree,
    inputs: PyTree,
    targets: jax.Array,
    weight: jax.Array,
    groups: jax.Array,
    num_groups: int,
    chunk_size: int | None,
) -> EnergySplit:
    means = group_means(targets, weight, groups, num_groups)[0][groups]

    model = read_apply(apply_fn, params, inputs)

    def one(example: tuple[PyTree, jax.Array, jax.Array]) -> jax.Array:
        x, target, mean = example
        scores, jacobian = model.jacobian(params, x)
        residual = loss.regularizer.residual
        directions = jnp.stack([residual(scores, target), residual(scores, mean), mean - target])
        return jnp.diagonal(jacobian.gram(directions))

    norms = map_examples(one, (inputs, targets, means), chunk_size, model.num_bytes(3))
    total, mean_part, noise_part = (weighted_mean(norms[:, i], weight) for i in range(3))
    return EnergySplit(total, mean_part, noise_part, total - mean_part - noise_part)
