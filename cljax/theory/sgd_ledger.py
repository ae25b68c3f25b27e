"""A ledger of mini-batch SGD: what each step did to its batch and to the rest of the data."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch
from cljax._checks import check_positive_int
from cljax._typing import PyTree
from cljax.theory.ledger_report import LedgerReport, LedgerState, read_ledger


@dataclasses.dataclass(frozen=True)
class SgdLedger:
    """Keeps the books of plain SGD; pure, to be jitted with the training step. Made by ``sgd_ledger``.

    Attributes:
        objective_fn: ``objective_fn(params, batch) -> scalar``, a mean over the batch.
        total_weight: sum of the weights of all the data: n.
    """

    objective_fn: Any
    total_weight: float

    def init(self, risk: Any = math.nan) -> LedgerState:
        """A ledger before the first step.

        Args:
            risk: R(θ_0) over all the data, if known.

        Returns:
            The state.
        """
        zero, low = jnp.zeros(()), jnp.full((), -jnp.inf)
        count, risk, none = jnp.zeros((), jnp.int32), jnp.asarray(risk, zero.dtype), jnp.full((), jnp.nan)
        return LedgerState(count, count, zero, zero, zero, zero, low, zero, -low, low, zero, risk, risk, none, zero)

    def update(
        self,
        state: LedgerState,
        params: PyTree,
        new_params: PyTree,
        batch: Batch,
        next_batch: Batch,
        *,
        loss: jax.Array,
        gradient: PyTree,
    ) -> LedgerState:
        """Enter a step; costs two more batch losses. Changes off the batch are sampled on the batch to come.

        The loss of the next batch at the old parameters waits for its loss at the new ones, which the next step has
        anyway: so the change of step k is known in step k + 1.

        Args:
            state: of the ledger.
            params: θ_k.
            new_params: θ_{k+1}.
            batch: B_k.
            next_batch: B_{k+1}.
            loss: R_B(θ_k) of the step.
            gradient: ∇R_B(θ_k) of the step.

        Returns:
            The new state; ``last_risk`` is not known any more.
        """
        # the step before has waited for this batch's loss at these parameters
        change = loss - state.pending
        state = _enter_change(state, change, state.pending_share, jnp.isfinite(state.pending))
        share = self._share(batch)
        state = self._enter_step(state, params, new_params, batch, loss, gradient, share)
        pending = self.objective_fn(params, next_batch)
        return dataclasses.replace(
            state, pending=pending, pending_share=share, last_risk=jnp.full_like(state.last_risk, jnp.nan)
        )

    def update_exact(
        self,
        state: LedgerState,
        params: PyTree,
        new_params: PyTree,
        batch: Batch,
        new_risk: jax.Array,
        *,
        loss: jax.Array,
        gradient: PyTree,
    ) -> LedgerState:
        """Enter a step with the exact change of the mean loss off the batch, from the risk over all the data.

        Args:
            state: of the ledger, with a known ``last_risk``.
            params: θ_k.
            new_params: θ_{k+1}.
            batch: B_k, part of the data.
            new_risk: R(θ_{k+1}) over all the data.
            loss: R_B(θ_k) of the step.
            gradient: ∇R_B(θ_k) of the step.

        Returns:
            The new state. A batch that is all the data has nothing off it, and its change counts as 0.
        """
        share = self._share(batch)
        after = self.objective_fn(new_params, batch)
        rest = jnp.where(share < 1, 1 - share, 1)
        change = (new_risk - state.last_risk - share * (after - loss)) / rest
        change = jnp.where(share < 1, change, 0)
        state = _enter_change(state, change, share, jnp.ones((), bool))
        state = self._enter_step(state, params, new_params, batch, loss, gradient, share, after)
        return dataclasses.replace(state, last_risk=jnp.asarray(new_risk, state.last_risk.dtype))

    def _share(self, batch: Batch) -> jax.Array:
        if batch.weight is None:
            return jnp.asarray(batch.num_examples / self.total_weight)
        weight = jnp.asarray(batch.weight)
        share = jnp.sum(weight, dtype=tree.work_dtype(weight.dtype)) / self.total_weight
        # sums of all weights in another order are the same to rounding, and what is off the batch is to be divided by
        rounding = 4 * jnp.finfo(share.dtype).eps * math.sqrt(weight.size)
        return jnp.where(abs(1 - share) <= rounding, 1, share)

    def _enter_step(
        self,
        state: LedgerState,
        params: PyTree,
        new_params: PyTree,
        batch: Batch,
        loss: jax.Array,
        gradient: PyTree,
        share: jax.Array,
        after: jax.Array | None = None,
    ) -> LedgerState:
        after = self.objective_fn(new_params, batch) if after is None else after
        step = jax.tree.map(jnp.subtract, new_params, params)
        squared, length = tree.vdot(gradient, gradient), tree.vdot(step, step)
        decrease = loss - after
        rise = -decrease - tree.vdot(gradient, step)
        return dataclasses.replace(
            state,
            num_steps=state.num_steps + 1,
            gradient=state.gradient + share * squared,
            decrease=state.decrease + share * decrease,
            min_coefficient=_least_ratio(state.min_coefficient, decrease, squared),
            max_smoothness=-_least_ratio(-state.max_smoothness, -2 * rise, length),
            shares=state.shares + share,
        )

    def report(self, state: LedgerState, last_risk: Any = None) -> LedgerReport:
        """Read the ledger, on the host.

        Args:
            state: of the ledger.
            last_risk: R(θ_T) over all the data, if known and not in the state.

        Returns:
            The report.

        Raises:
            ValueError: if no step was entered.
        """
        return read_ledger(state, last_risk)


def _least_ratio(old: jax.Array, above: jax.Array, below: jax.Array) -> jax.Array:
    """The lesser of ``old`` and above/below; a NaN in any of them stays, a ratio with nothing below does not count."""
    nothing = below == 0
    new = above / jnp.where(nothing, 1, below)
    return jnp.where(nothing & ~jnp.isnan(new), old, jnp.minimum(old, new))


def _enter_change(state: LedgerState, change: jax.Array, share: jax.Array, counts: jax.Array) -> LedgerState:
    entered = jnp.where(counts, change, 0)
    return dataclasses.replace(
        state,
        num_changes=state.num_changes + counts.astype(jnp.int32),
        outside=state.outside + (1 - share) * entered,
        change=state.change + entered,
        max_change=jnp.where(counts, jnp.maximum(state.max_change, change), state.max_change),
        max_abs_change=jnp.where(counts, jnp.maximum(state.max_abs_change, abs(change)), state.max_abs_change),
    )


def sgd_ledger(objective_fn: Any, num_examples: int, *, total_weight: float | None = None) -> SgdLedger:
    """A ledger of mini-batch SGD: c_k, D_k, local smoothness, and the bounds of the gradients that follow.

    Each step lowers the loss of its batch by c_k |∇R_B|² and changes the mean loss off the batch by D_k; as the risk is
    the average of both, mean(c_k |∇R_B|²) = n (R_0 − R_T) / (mT) + (n − m)/m · mean(D_k), exactly and whatever the
    optimizer. Batches may be uneven: each counts by its share of the weight.

    Args:
        objective_fn: hashable ``objective_fn(params, batch) -> scalar``, the weighted mean over the batch.
        num_examples: n, all the data.
        total_weight: sum of the weights of all the data, where they are not all 1.

    Returns:
        A ledger with ``init``, ``update``, ``update_exact`` and ``report``.

    Raises:
        ValueError: if a number is not above 0.
        TypeError: if ``objective_fn`` is not hashable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, theory
        >>> objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
        >>> data = cljax.Batch(jnp.eye(2), jnp.ones((2, 1)))
        >>> ledger, w = theory.sgd_ledger(objective, 2), jnp.zeros((2, 1))
        >>> state = ledger.init(objective(w, data))
        >>> batch = jax.tree.map(lambda x: x[:1], data)
        >>> loss, gradient = jax.value_and_grad(objective)(w, batch)
        >>> new = w - 0.5 * gradient
        >>> state = ledger.update_exact(state, w, new, batch, objective(new, data), loss=loss, gradient=gradient)
        >>> report = ledger.report(state)
        >>> report.mean_gradient, report.min_coefficient, report.mean_change
        (1.0, 0.375, 0.0)

    References:
        Our own identity and constants; arXiv:2608.09523, definition 4.3 and theorem 4.2, for the quantities.
    """
    num_examples = check_positive_int("num_examples", num_examples)
    total = float(num_examples) if total_weight is None else float(total_weight)
    if not total > 0:
        raise ValueError(f"total_weight: expected a number above 0, got {total_weight}")
    try:
        hash(objective_fn)
    except TypeError as error:
        raise TypeError(f"objective_fn: expected a hashable function, got {type(objective_fn).__name__}") from error
    return SgdLedger(objective_fn, total)
