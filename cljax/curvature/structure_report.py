"""What of a model's Jacobian is taken in factors, and what is not and why."""

import dataclasses
import math
from typing import Any

import jax

from cljax._checks import check_inexact_tree, check_positive_int
from cljax._typing import PyTree
from cljax.curvature.base import as_callable_tree, highest_precision
from cljax.curvature.example_jacobian import ExampleModel, read_apply
from cljax.curvature.factored import Kernel


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """How one parameter leaf enters J Jᵀ.

    Attributes:
        path: where the leaf is among the parameters.
        form: "outer", "patch gram" or "kernel gradient" for kernels, see ``curvature.structure_report``; "rows" where
            its part of J is formed; "none" where the scores do not depend on it.
        num_entries: entries of the leaf.
        flops: FLOPs for one example from inputs and back-propagated derivatives to J Jᵀ; for "rows", from the rows on.
        reason: why it is not taken in factors; empty for kernels.
    """

    path: str
    form: str
    num_entries: int
    flops: float
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class StructureReport:
    """How ``curvature.structure_matrix`` works on a model; made by ``curvature.structure_report``.

    Attributes:
        leaves: one for each parameter leaf, in their order.
        num_scores: K.
        example_bytes: estimate of the bytes that one example needs; it decides how many are worked on side by side.
    """

    leaves: tuple[LeafReport, ...]
    num_scores: int
    example_bytes: int

    @property
    def factored_share(self) -> float:
        """Share of the parameters, by entries, that is taken in factors."""
        total = sum(leaf.num_entries for leaf in self.leaves)
        return sum(leaf.num_entries for leaf in self.leaves if not leaf.reason) / max(total, 1)

    def explain(self) -> str:
        """The report as text.

        Returns:
            A line with totals, and one for each leaf.
        """
        width = max(len(leaf.path) for leaf in self.leaves)
        lines = [
            f"{self.factored_share:.1%} of the parameters in factors, {self.num_scores} scores, about "
            f"{self.example_bytes:,} bytes an example"
        ]
        for leaf in self.leaves:
            line = f"{leaf.path:{width}}  {leaf.form:15}  {leaf.num_entries:>12,} entries  {leaf.flops:10.3g} FLOPs"
            lines.append(f"{line}  {leaf.reason}".rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        """The same as ``explain()``."""
        return self.explain()


def structure_report(apply_fn: Any, params: PyTree, inputs: PyTree, *, num_rows: int | None = None) -> StructureReport:
    """What ``curvature.structure_matrix`` recognises in a model: nothing is compiled or run.

    The model's program is read for parameters that are kernels of matrix products or convolutions and nothing else.
    With the inputs x_p of such a kernel at positions p and derivatives δ_kp of score k in its results, its share of
    J Jᵀ is Σ_pq (x_p·x_q)(δ_kp·δ_lq). It is summed so ("patch gram"; "outer" for one position), or as the product of
    kernel gradients Σ_p x_p δ_kpᵀ with each other ("kernel gradient"), whichever takes fewer FLOPs. Kernels may be
    reshaped, transposed and cast, and used at several places in the same arrangement. Other parameters are right too:
    their rows of J are formed.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K): hashable, or a callable pytree.
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).
        num_rows: derivatives of each example; None for K, as for whole matrices.

    Returns:
        A report of host numbers; ``str`` of it is a table.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.
        ValueError: if the scores are not of shape (batch, K), or the batch is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
        >>> fn = lambda p, x: x @ p["kernel"] + p["bias"][None]
        >>> report = curvature.structure_report(fn, params, jnp.ones((5, 3)))
        >>> [(leaf.path, leaf.form, leaf.reason) for leaf in report.leaves]
        [("['bias']", 'rows', 'enters add'), ("['kernel']", 'outer', '')]

    References:
        Novak, Sohl-Dickstein, Schoenholz: Fast finite width neural tangent kernel, ICML 2022, for structured
        derivatives.
    """
    apply_tree = check_scores(apply_fn, params, inputs)[0]
    model = highest_precision(read_apply)(apply_tree, params, inputs)
    num_scores = model.scores.shape[0]
    num_rows = num_scores if num_rows is None else check_positive_int("num_rows", num_rows)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves = tuple(_leaf_report(path, model, index, num_rows) for index, path in enumerate(paths))
    return StructureReport(leaves, num_scores, model.num_bytes(num_rows))


def check_scores(apply_fn: Any, params: PyTree, inputs: PyTree) -> tuple[Any, int]:
    """Check a model whose scores are one vector an example.

    Args:
        apply_fn: hashable, or a callable pytree.
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).

    Returns:
        The callable pytree, and K.

    Raises:
        TypeError: if ``params`` has a leaf that is not floating, or ``apply_fn`` is not hashable.
        ValueError: if the scores are not of shape (batch, K), or the batch is empty.
    """
    check_inexact_tree("params", params)
    apply_tree = as_callable_tree("apply_fn", apply_fn)
    scores = jax.eval_shape(apply_tree, params, inputs)
    if len(scores.shape) != 2:
        raise ValueError(f"apply_fn: expected scores of shape (batch, K), got {scores.shape}")
    if not scores.shape[0]:
        raise ValueError("inputs: expected at least one example, got a batch of size 0")
    return apply_tree, scores.shape[1]


def _leaf_report(path: str, model: ExampleModel, index: int, num_rows: int) -> LeafReport:
    found, size = model.findings[index], math.prod(model.structs[index].shape)
    if isinstance(found, Kernel):
        form = found.form(num_rows)
        return LeafReport(path, form, size, found.costs(num_rows)[form])
    if index in model.plain:
        return LeafReport(path, "rows", size, 2.0 * num_rows**2 * size, found)
    return LeafReport(path, "none", size, 0.0, found)
