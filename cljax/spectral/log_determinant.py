"""Logarithm of the determinant by stochastic Lanczos quadrature."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_positive_int
from cljax._quick import quick_jit
from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import choose_loop
from cljax.spectral.estimate import Estimate
from cljax.spectral.gauss_rule import Rule
from cljax.spectral.recurrence import probe_keys
from cljax.spectral.rounds import check_arguments
from cljax.spectral.rules import estimate_from_rules


def log_determinant(
    op: LinearOperator,
    key: jax.Array,
    *,
    shift: jax.Array | float = 0.0,
    num_probes: int = 16,
    num_steps: int = 64,
    tol: float | None = None,
    min_probes: int = 10,
    reorthogonalize: bool = True,
    driver: Any = "auto",
) -> Estimate:
    """Logarithm of det (A + shift·I) of a positive definite operator.

    The standard error covers the random probes. The quadrature's own error does not show in it: each probe's value is
    too great, never too small, and falls geometrically with ``num_steps``, the faster the smaller the condition
    number; compare two numbers of steps.

    Args:
        op: symmetric operator on n-dimensional vectors; A + shift·I positive definite.
        key: typed PRNG key.
        shift: added to all eigenvalues, in the operator's units; it costs no product.
        num_probes: independent Rademacher probes, with ``tol`` the most of them; the standard error falls with their
            square root.
        num_steps: products for each probe; above n counts as n.
        tol: None to use all probes, or the standard error, relative to the estimate, at which to stop. With it there is
            no derivative.
        min_probes: probes before the first look at the standard error, at least 2, see ``trace``.
        reorthogonalize: as for ``spectral_density``; without, memory does not grow with ``num_steps``, and only then
            are there derivatives: with it they are NaN, and those in reverse mode raise. A second derivative is
            not right, mostly NaN, where a Krylov space is exhausted, as that of an operator with few eigenvalues.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        The estimate, ``converged`` False where there is no tolerance. NaN where a node of the quadrature is not above
        8 eps times the greatest: there rounding hides the sign of an eigenvalue. Finite values are no proof that the
        operator is positive definite: nodes lie between the eigenvalues.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1 or the driver cannot run here.
        TypeError: if ``key`` is no typed key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> round(float(spectral.log_determinant(op, jax.random.key(0), shift=1.0).mean), 3)  # log 2 + log 4
        2.079

    References:
        Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 38 (2017),
        section 5.1; sign of the quadrature's error: Golub and Meurant, Matrices, Moments and Quadrature with
        Applications (2010), theorem 6.4.
    """
    num_probes, min_probes = check_arguments(op, key, tol, num_probes, min_probes, name="num_probes")
    dimension = tree.size(op.struct)
    num_steps = min(check_positive_int("num_steps", num_steps), dimension)
    # without a tolerance a host loop never looks at the samples
    looked_at = (shift,) if tol is not None or driver == "auto" else ()
    chosen, keys = choose_loop(driver, op, key, *looked_at), probe_keys(key, num_probes)
    return estimate_from_rules(
        chosen, op, keys, num_steps, bool(reorthogonalize), _samples, (dimension, shift), tol, min_probes
    )


@quick_jit
def _samples(rules: Rule, dimension: int, shift: Any) -> jax.Array:
    nodes = rules.nodes + jnp.asarray(shift, rules.nodes.dtype)
    floor = 8 * jnp.finfo(nodes.dtype).eps * jnp.max(jnp.abs(nodes), axis=1, keepdims=True)
    positive = nodes > floor
    logs = jnp.where(positive, jnp.log(jnp.where(positive, nodes, 1)), jnp.nan)
    return dimension * jnp.sum(rules.weights * logs, axis=1)
