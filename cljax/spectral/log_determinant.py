"""Logarithm of the determinant by stochastic Lanczos quadrature."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax.curvature.base import LinearOperator
from cljax.spectral.across_probes import probed_estimate
from cljax.spectral.density import spectral_density
from cljax.spectral.estimate import Estimate


def log_determinant(
    op: LinearOperator,
    key: jax.Array,
    *,
    shift: jax.Array | float = 0.0,
    num_probes: int = 16,
    num_steps: int = 64,
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
        num_probes: independent Rademacher probes; the standard error falls with their square root.
        num_steps: products for each probe; above n counts as n.
        reorthogonalize: as for ``spectral_density``; without, memory does not grow with ``num_steps``, and only then
            are there derivatives: with it they are NaN.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        The estimate, ``converged`` False as there is no tolerance. NaN where a node of the quadrature is not above
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
    found = spectral_density(
        op, key, num_probes=num_probes, num_steps=num_steps, reorthogonalize=reorthogonalize, driver=driver
    )
    return probed_estimate(_samples(found.nodes, found.weights, found.dimension, shift), found.num_products)


@jax.jit
def _samples(nodes: jax.Array, weights: jax.Array, dimension: int, shift: Any) -> jax.Array:
    nodes = nodes + jnp.asarray(shift, nodes.dtype)
    floor = 8 * jnp.finfo(nodes.dtype).eps * jnp.max(jnp.abs(nodes), axis=1, keepdims=True)
    positive = nodes > floor
    logs = jnp.where(positive, jnp.log(jnp.where(positive, nodes, 1)), jnp.nan)
    return dimension * jnp.sum(weights * logs, axis=1)
