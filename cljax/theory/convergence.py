"""How far mini-batch SGD gets: neighbourhoods and step counts, in all forms."""

import dataclasses
import math

from cljax._checks import check_positive_int


@dataclasses.dataclass(frozen=True)
class Neighbourhoods:
    """What remains of mean |∇R_B|² for many steps: (n − m)/m · M / c, for several c and M.

    With batches of m out of n examples and R_out the mean loss off the batch, each step changes R_out by D_k. Entries
    are in squared units of the gradient; negative ones say that the term helps.

    Attributes:
        mean_change: with the mean of D_k, c = α(1 − αL/2): the tightest form, this library's.
        max_change: with M = max D_k, signed: the source's definition.
        max_abs_change: with M = max |D_k|.
        best_step: 2L (n − m)M/m: max_change with the best step α = 1/L, whatever step was taken.
        half_step: (8/3) L (n − m)M/m: the same with α = 1/(2L).
        paper: 4L (n − m) max|D_k| / m, as 2602.16177's theorem 12 is reported, for α = 1/(2L); valid, not tight.
        coefficient: c, or NaN where α is not below 2/L: then there is no theorem.
    """

    mean_change: float
    max_change: float
    max_abs_change: float
    best_step: float
    half_step: float
    paper: float
    coefficient: float


def neighbourhoods(
    *,
    smoothness: float,
    learning_rate: float,
    num_examples: int,
    batch_size: int,
    mean_change: float,
    max_change: float,
    max_abs_change: float,
) -> Neighbourhoods:
    """Neighbourhoods of mini-batch SGD, from measured changes of the out-of-batch risk.

    For batch losses with an L-Lipschitz gradient along the steps and a step size α below 2/L, c = α(1 − αL/2):
    mean |∇R_B|² ≤ n (R_0 − R_T) / (c m T) + (n − m) / (c m) · mean D_k.

    Args:
        smoothness: L, above 0.
        learning_rate: α, above 0.
        num_examples: n.
        batch_size: m, at most n.
        mean_change: mean of D_k = R_out(θ_{k+1}) − R_out(θ_k).
        max_change: greatest D_k.
        max_abs_change: greatest abs(D_k).

    Returns:
        The second term of the bound in all its forms.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from cljax import theory
        >>> changes = {"mean_change": 0.1, "max_change": 0.3, "max_abs_change": 0.5}
        >>> found = theory.neighbourhoods(smoothness=2.0, learning_rate=0.5, num_examples=4, batch_size=1, **changes)
        >>> round(found.max_change, 3), round(found.best_step, 3)
        (3.6, 3.6)

    References:
        arXiv:2608.09523, definition 4.3, theorem 4.2 and corollary 4.2, with the proof redone: the theorem bounds the
        sampled batches' gradients, not the greatest over all batches.
    """
    num_examples, batch_size = _check_sizes(num_examples, batch_size)
    coefficient = _coefficient(learning_rate, smoothness)
    if max_abs_change < abs(max_change):
        raise ValueError(f"max_abs_change: expected at least abs(max_change) = {abs(max_change)}, got {max_abs_change}")
    rest = (num_examples - batch_size) / batch_size
    coefficient = coefficient if coefficient > 0 else math.nan
    return Neighbourhoods(
        mean_change=rest * mean_change / coefficient,
        max_change=rest * max_change / coefficient,
        max_abs_change=rest * max_abs_change / coefficient,
        best_step=2 * smoothness * rest * max_change,
        half_step=8 / 3 * smoothness * rest * max_change,
        paper=4 * smoothness * rest * max_abs_change,
        coefficient=coefficient,
    )


def num_steps_to(
    target: float, *, risk_gap: float, smoothness: float, learning_rate: float, num_examples: int, batch_size: int
) -> float:
    """Steps after which mean |∇R_B|² is at most target + neighbourhood: n (R_0 − R_*) / (c m target).

    Args:
        target: ε², in squared units of the gradient, above 0.
        risk_gap: R_0 − R_*, at least 0.
        smoothness: L, above 0.
        learning_rate: α, above 0 and below 2/L.
        num_examples: n.
        batch_size: m, at most n.

    Returns:
        A number of steps, not rounded; +inf where α is not below 2/L.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from cljax import theory
        >>> sizes = {"num_examples": 10, "batch_size": 5}
        >>> theory.num_steps_to(0.1, risk_gap=1.0, smoothness=1.0, learning_rate=1.0, **sizes)
        40.0

    References:
        Our own form of arXiv:2608.09523, corollary 4.2 (1), whose threshold is printed without the factor it needs.
    """
    if not target > 0:
        raise ValueError(f"target: expected a number above 0, got {target}")
    if not risk_gap >= 0:
        raise ValueError(f"risk_gap: expected at least 0, got {risk_gap}")
    num_examples, batch_size = _check_sizes(num_examples, batch_size)
    coefficient = _coefficient(learning_rate, smoothness)
    if not coefficient > 0:
        return math.inf
    return num_examples * risk_gap / (batch_size * coefficient * target)


def linear_rate_limit(
    *, smoothness: float, strong_convexity: float, num_examples: int, batch_size: int, change: float, capacity: float
) -> float:
    """Limit of E R − R_* where |∇R_B|² ≥ 2σ (R_B − R_B*) and α = 1/L: (n − m)M/(t m) − R_cap, t = σ/L.

    The source prints the first term with a minus, which makes the limit of a non-negative quantity negative.

    Args:
        smoothness: L, above 0 and finite.
        strong_convexity: σ, above 0, at most L.
        num_examples: n.
        batch_size: m, at most n.
        change: M, the greatest change of the out-of-batch risk in a step.
        capacity: R_cap = R_* − E R_B*, the model capacity risk, at least 0.

    Returns:
        The limit.

    Raises:
        ValueError: if L is not finite, σ not in (0, L], a batch greater than the data, or the capacity below 0.

    Example:
        >>> from cljax import theory
        >>> theory.linear_rate_limit(
        ...     smoothness=2.0, strong_convexity=1.0, num_examples=4, batch_size=2, change=0.5, capacity=0.25
        ... )
        0.75

    References:
        arXiv:2608.09523, theorem 4.2 (3) and corollary 4.2 (2), with the sign of equation 121 mended.
    """
    if not 0 < smoothness < math.inf:
        raise ValueError(f"smoothness: expected a positive finite number, got {smoothness}")
    if not 0 < strong_convexity <= smoothness:
        raise ValueError(f"strong_convexity: expected a number in (0, {smoothness}], got {strong_convexity}")
    num_examples, batch_size = _check_sizes(num_examples, batch_size)
    if not capacity >= 0:
        raise ValueError(f"capacity: expected at least 0, as R_* is at least the mean of R_B*, got {capacity}")
    return (num_examples - batch_size) * change * smoothness / (strong_convexity * batch_size) - capacity


def _check_sizes(num_examples: int, batch_size: int) -> tuple[int, int]:
    num_examples = check_positive_int("num_examples", num_examples)
    batch_size = check_positive_int("batch_size", batch_size)
    if batch_size > num_examples:
        raise ValueError(f"batch_size: expected at most num_examples = {num_examples}, got {batch_size}")
    return num_examples, batch_size


def _coefficient(learning_rate: float, smoothness: float) -> float:
    """The theorem's c = α(1 − αL/2)."""
    for name, value in (("smoothness", smoothness), ("learning_rate", learning_rate)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
    return learning_rate * (1 - learning_rate * smoothness / 2)
