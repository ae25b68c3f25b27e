"""What a ledger of SGD holds, and how it is read."""

import dataclasses
import math
from typing import Any

import jax

from cljax._pytree import pytree_dataclass
from cljax.theory.convergence import Neighbourhoods, neighbourhoods


@pytree_dataclass
class LedgerState:
    """Running sums; all scalars, so that it costs nothing to carry and checkpoints with the training state.

    Attributes:
        num_steps: int32, steps entered.
        num_changes: int32, steps whose out-of-batch change is known.
        gradient: Σ s_k |∇R_B|², with s_k the share of the batch's weight in the data's.
        decrease: Σ s_k (R_B(θ_k) − R_B(θ_{k+1})).
        outside: Σ (1 − s_k) D_k over known changes.
        change: Σ D_k over known changes.
        max_change: greatest D_k.
        max_abs_change: greatest abs(D_k).
        min_coefficient: least c_k = (R_B(θ_k) − R_B(θ_{k+1})) / |∇R_B|².
        max_smoothness: greatest 2 (R_B(θ_{k+1}) − R_B(θ_k) − <∇R_B, Δ>) / |Δ|², Δ the step.
        shares: Σ s_k.
        first_risk: R(θ_0), NaN where not known.
        last_risk: R at the newest parameters, NaN where not known.
        pending: loss of the batch to come at the old parameters, NaN for none.
        pending_share: the share of the batch that waits for it.
    """

    num_steps: jax.Array
    num_changes: jax.Array
    gradient: jax.Array
    decrease: jax.Array
    outside: jax.Array
    change: jax.Array
    max_change: jax.Array
    max_abs_change: jax.Array
    min_coefficient: jax.Array
    max_smoothness: jax.Array
    shares: jax.Array
    first_risk: jax.Array
    last_risk: jax.Array
    pending: jax.Array
    pending_share: jax.Array


@dataclasses.dataclass(frozen=True)
class LedgerReport:
    """What a ledger says; numbers of Python, in the units of loss and parameters.

    Attributes:
        num_steps: T.
        mean_gradient: mean of |∇R_B|², weighted by the batches' shares.
        mean_change: mean of D_k; where both risks are known, from the exact identity and for all steps.
        max_change: greatest known D_k.
        max_abs_change: greatest known abs(D_k).
        min_coefficient: least c_k; not above 0 where a step raised the loss of its own batch. A step without gradient
            has none; +inf where all are such.
        smoothness: greatest local smoothness along the steps, L. A step that does not move has none; −inf where all are
            such.
        batch_share: mean share of a batch in the data, m/n.
        bound: 1/min c_k · (n (R_0 − R_T) / (mT) + (n − m)/m · mean D_k), an upper bound of ``mean_gradient`` by the
            exact identity; NaN where a risk is not known or min c_k is not above 0.
        identity_residual: mean c_k|∇R_B|² minus n (R_0 − R_T) / (mT) + (n − m)/m · mean D_k: rounding, where all
            changes are exact; NaN where they are not.
        exact: whether every D_k is the exact change of the mean loss off the batch, not that of one other batch.
    """

    num_steps: int
    mean_gradient: float
    mean_change: float
    max_change: float
    max_abs_change: float
    min_coefficient: float
    smoothness: float
    batch_share: float
    bound: float
    identity_residual: float
    exact: bool

    def neighbourhoods(self, learning_rate: float, num_examples: int) -> Neighbourhoods:
        """What remains of the mean squared gradient for many steps; see ``theory.neighbourhoods``."""
        return neighbourhoods(
            smoothness=max(self.smoothness, 1e-30),
            learning_rate=learning_rate,
            num_examples=num_examples,
            batch_size=max(1, round(self.batch_share * num_examples)),
            mean_change=self.mean_change,
            max_change=self.max_change,
            max_abs_change=self.max_abs_change,
        )


def read_ledger(state: LedgerState, last_risk: Any = None) -> LedgerReport:
    """Read a ledger, on the host.

    Args:
        state: of the ledger.
        last_risk: R(θ_T) over all the data, if known and not in the state.

    Returns:
        The report.

    Raises:
        ValueError: if no step was entered.
    """
    numbers = {field.name: float(getattr(state, field.name)) for field in dataclasses.fields(state)}
    steps, changes = int(numbers["num_steps"]), int(numbers["num_changes"])
    if not steps:
        raise ValueError("state: expected at least one step, got an empty ledger; call update first")
    shares, first = numbers["shares"], numbers["first_risk"]
    last = numbers["last_risk"] if last_risk is None else float(last_risk)
    exact = changes == steps and math.isfinite(numbers["last_risk"])
    drop = first - last
    # the identity: Σ s c |g|² = R_0 − R_T + Σ (1 − s) D, divided by Σ s
    outside = numbers["outside"] if exact else numbers["decrease"] - drop
    mean_change = numbers["change"] / changes if changes else math.nan
    if not exact and math.isfinite(drop) and steps > shares:
        mean_change = outside / (steps - shares)
    least = numbers["min_coefficient"]
    known = math.isfinite(drop) and least > 0
    return LedgerReport(
        num_steps=steps,
        mean_gradient=numbers["gradient"] / shares,
        mean_change=mean_change,
        max_change=numbers["max_change"] if changes else math.nan,
        max_abs_change=numbers["max_abs_change"] if changes else math.nan,
        min_coefficient=least,
        smoothness=numbers["max_smoothness"],
        batch_share=shares / steps,
        bound=(drop + outside) / (shares * least) if known else math.nan,
        identity_residual=(numbers["decrease"] - drop - outside) / shares if exact else math.nan,
        exact=exact,
    )
