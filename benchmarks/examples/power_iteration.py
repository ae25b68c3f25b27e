"""An estimator of one's own: power iteration, in one file.

$ python -m benchmarks run extremes --size tiny --output runs/power --estimators benchmarks/examples/power_iteration.py
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimators import NotApplicableError, Request, estimator, flat_product


@estimator("power", "extremes", control="budget", settings="plain power iteration, jitted")
def power(request: Request) -> Any:
    """Everything that needs to be done once, then the run that is timed, which returns the eigenvalues, ascending."""
    if (request.num_top, request.num_bottom) != (1, 0):
        raise NotApplicableError("finds one eigenvalue")

    @jax.jit
    def program(op: Any, v: jax.Array) -> jax.Array:
        product = flat_product(op)
        v = jax.lax.fori_loop(1, request.budget, lambda _, v: product(v) / jnp.linalg.norm(v), v)
        return jnp.vdot(v, product(v)) / jnp.vdot(v, v)

    op = request.op  # counts its products in runs that are not timed
    return lambda seed: np.asarray([program(op, jnp.asarray(request.start(seed)))])
