"""Number of eigenvalues in an interval by stochastic Lanczos quadrature."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_positive_int
from cljax._quick import quick_jit
from cljax.curvature.base import LinearOperator
from cljax.spectral.across_probes import check_interval
from cljax.spectral.driver import choose_loop
from cljax.spectral.estimate import Estimate
from cljax.spectral.gauss_rule import Rule, reaches
from cljax.spectral.recurrence import probe_keys
from cljax.spectral.rounds import check_arguments
from cljax.spectral.rules import estimate_from_rules
from cljax.spectral.spread import mass_below


def eigenvalue_count(
    op: LinearOperator,
    key: jax.Array,
    low: jax.Array | float,
    high: jax.Array | float,
    *,
    num_probes: int = 16,
    num_steps: int = 64,
    tol: float | None = None,
    min_probes: int = 10,
    reorthogonalize: bool = True,
    driver: Any = "auto",
) -> Estimate:
    """Number of eigenvalues in (low, high].

    The standard error covers the random probes. That few nodes blur the ends of the interval does not show in it:
    ``SpectralDensity.cumulative_bounds`` times n says by how much, and an end in a gap of the spectrum is not blurred.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        low: lower end, in the operator's units; −inf allowed.
        high: upper end, in the operator's units; +inf allowed.
        num_probes: independent Rademacher probes, with ``tol`` the most of them; the standard error falls with their
            square root.
        num_steps: products for each probe; above n counts as n.
        tol: None to use all probes, or the standard error, relative to the estimate, at which to stop. With it there is
            no derivative.
        min_probes: probes before the first look at the standard error, at least 2, see ``trace``.
        reorthogonalize: as for ``spectral_density``; without, memory does not grow with ``num_steps``, and only then
            are there derivatives: with it they are NaN, and those in reverse mode raise.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        The estimate, in eigenvalues, ``converged`` False where there is no tolerance. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1, ``low`` is not below ``high`` or the
            driver cannot run here.
        TypeError: if ``key`` is no typed key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(4), jnp.array([1.0, 3.0, 3.0, -2.0]))
        >>> found = spectral.eigenvalue_count(op, jax.random.key(0), 2.0, float("inf"))
        >>> round(float(found.mean))
        2

    References:
        Di Napoli, Polizzi and Saad, Efficient estimation of eigenvalue counts in an interval, Numer. Linear Algebra
        Appl. 23 (2016), section 3.
    """
    check_interval(low, high)
    num_probes, min_probes = check_arguments(op, key, tol, num_probes, min_probes, name="num_probes")
    dimension = tree.size(op.struct)
    num_steps = min(check_positive_int("num_steps", num_steps), dimension)
    # without a tolerance a host loop never looks at the samples
    looked_at = (low, high) if tol is not None or driver == "auto" else ()
    chosen, keys = choose_loop(driver, op, key, *looked_at), probe_keys(key, num_probes)
    return estimate_from_rules(
        chosen, op, keys, num_steps, bool(reorthogonalize), _samples, (dimension, low, high), tol, min_probes
    )


@quick_jit
def _samples(rules: Rule, dimension: int, low: Any, high: Any) -> jax.Array:
    ends = jnp.stack([jnp.asarray(end, rules.nodes.dtype) for end in (low, high)])
    below, above = mass_below(rules.nodes, rules.weights, reaches(rules), ends).T
    return dimension * (above - below)
