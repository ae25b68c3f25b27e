"""jax.experimental.sparse.linalg.lobpcg_standard, its tolerance set: the default stops at once in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import NotApplicableError, Request, flat_product

MOST = 200


@estimator(
    "jax lobpcg_standard",
    "extremes",
    package="jax",
    control="tolerance",
    settings="tol / 20 n, which makes it a relative residual; bottom eigenvalues as top ones of −A",
)
def extremes(request: Request) -> Any:
    """Blocks of as many vectors as eigenvalues, at each end; the operator multiplies blocks."""
    from jax.experimental.sparse.linalg import lobpcg_standard

    n = request.dimension
    if 5 * max(request.num_top, request.num_bottom) >= n:
        raise NotApplicableError("takes at most n/5 eigenvalues")

    @jax.jit
    def program(op: Any, X: jax.Array, sign: float, tol: float) -> jax.Array:
        product = jax.vmap(flat_product(op), 1, 1)
        return lobpcg_standard(lambda X: sign * product(X), X, MOST, tol)[0]

    op = request.op
    tol = np.float32(request.tolerance / (20 * n))  # it compares the residual with tol · 10 n (θ + ‖A v‖)

    def run(seed: int) -> Any:
        found, draw = [], np.random.default_rng(seed)
        for sign, number in ((-1.0, request.num_bottom), (1.0, request.num_top)):
            if number:
                X = jnp.asarray(draw.standard_normal((n, number)), jnp.float32)
                found.append(sign * np.asarray(program(op, X, sign, tol)))
        return np.sort(np.concatenate(found))

    return run
