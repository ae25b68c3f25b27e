"""The two ways to repeat Lanczos steps: one compiled loop, or a host loop of compiled steps.

The compiled loop never waits for the host, which costs over half of the time on an accelerator. The host loop is for
XLA's CPU backend, which runs a convolution inside of a loop body about four times slower than outside, and it grows the
basis only as far as the run needs. Both take the same step, so they agree up to rounding.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.krylov import KrylovState, krylov_grow, krylov_start, krylov_step, krylov_update, ritz_pairs

DRIVERS = ("auto", "compiled", "host")
_FIRST_CAPACITY = 16


def choose_driver(driver: str, *arrays: Any) -> str:
    """Which of the two loops runs.

    Args:
        driver: "auto", "compiled" or "host".
        *arrays: pytrees of everything that the run takes; under a transformation only the compiled loop can run.

    Returns:
        "compiled" or "host".

    Raises:
        ValueError: if the driver is not known, or "host" is asked for inside of a transformation.
    """
    if driver not in DRIVERS:
        raise ValueError(f"driver: expected one of {list(DRIVERS)}, got {driver!r}")
    leaves = [leaf for leaf in jax.tree.leaves(arrays) if isinstance(leaf, jax.Array)]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if driver == "host" and traced:
        raise ValueError("driver: expected 'compiled' or 'auto' inside of jit, vmap or grad, got 'host'")
    if driver != "auto":
        return driver
    if traced:
        return "compiled"
    platforms = {device.platform for leaf in leaves for device in leaf.devices()} or {jax.default_backend()}
    return "host" if platforms == {"cpu"} else "compiled"


def check_due(step: Any, num_pairs: int) -> Any:
    """Whether convergence is looked at after this step: each one early on, every fourth later."""
    return (step >= min_steps(num_pairs)) & ((step <= 8) | (step % 4 == 0))


def min_steps(num_pairs: int) -> int:
    """Steps before a run may stop: a warm start must have the chance to find what it did not know of."""
    return num_pairs + 3


def run_lanczos(
    driver: str,
    op: LinearOperator,
    vector: PyTree,
    key: jax.Array,
    num_steps: int,
    tol: jax.Array | float = 0.0,
    num_top: int = 0,
    num_bottom: int = 0,
) -> KrylovState:
    """Lanczos from ``vector`` until the wanted Ritz pairs are estimated to be converged, or for ``num_steps``.

    Args:
        driver: "compiled" or "host".
        op: symmetric operator.
        vector: start vector, not zero.
        key: typed PRNG key of the restarts.
        num_steps: static, most products.
        tol: relative residual below which a pair counts as converged.
        num_top: pairs wanted at the upper end; with ``num_bottom`` 0 too, all steps are taken.
        num_bottom: pairs wanted at the lower end.

    Returns:
        The final state.
    """
    vector = tree.place_like(vector, op.struct)
    flatten = tree.is_replicated(vector)
    if driver == "compiled":
        return _compiled(op, vector, key, tol, num_steps, num_top, num_bottom, flatten)
    return _host(op, vector, key, tol, num_steps, num_top, num_bottom, flatten)


@partial(jax.jit, static_argnames=("num_steps", "num_top", "num_bottom", "flatten"))
def _compiled(
    op: LinearOperator,
    vector: PyTree,
    key: jax.Array,
    tol: jax.Array,
    num_steps: int,
    num_top: int,
    num_bottom: int,
    flatten: bool,
) -> KrylovState:
    product, struct = op.linearize(), op.struct
    state = krylov_start(vector, key, num_steps + 1, flatten)
    if not num_top + num_bottom:
        return jax.lax.fori_loop(0, num_steps, lambda _, s: krylov_step(product, struct, s), state)

    def step(carry: tuple[KrylovState, jax.Array]) -> tuple[KrylovState, jax.Array]:
        state = krylov_step(product, struct, carry[0])
        done = jax.lax.cond(
            check_due(state.step, num_top + num_bottom),
            lambda: settled(state, tol, num_top, num_bottom),
            lambda: jnp.array(False),
        )
        return state, done

    def go_on(carry: tuple[KrylovState, jax.Array]) -> jax.Array:
        return ~carry[1] & (carry[0].step < num_steps)

    return jax.lax.while_loop(go_on, step, (state, jnp.array(False)))[0]


def _host(
    op: LinearOperator,
    vector: PyTree,
    key: jax.Array,
    tol: jax.Array | float,
    num_steps: int,
    num_top: int,
    num_bottom: int,
    flatten: bool,
) -> KrylovState:
    product = linearized(op)
    state = _start(vector, key, min(num_steps + 1, _FIRST_CAPACITY), flatten)
    for step in range(1, num_steps + 1):
        if state.capacity < step + 1:
            state = _grow(state, min(num_steps + 1, 2 * state.capacity))
        state = _update(state, apply_product(product, op.struct, state.vector))
        if num_top + num_bottom and check_due(step, num_top + num_bottom) and _settled(state, tol, num_top, num_bottom):
            break
    return state


def settled(state: KrylovState, tol: jax.Array | float, num_top: int, num_bottom: int) -> jax.Array:
    """Whether the wanted pairs are estimated to be converged to half the tolerance, or nothing finite is left."""
    values, _, residuals, norm = ritz_pairs(state, num_top, num_bottom)
    return jnp.all(residuals <= 0.5 * residual_bound(values, norm, tol)) | ~jnp.isfinite(norm)


def residual_bound(values: jax.Array, norm: jax.Array, tol: jax.Array | float) -> jax.Array:
    """Residual norms that count as converged: tol·|θ|, but not below what rounding allows, 32 eps ‖A‖."""
    return jnp.maximum(tol * jnp.abs(values), 32 * jnp.finfo(values.dtype).eps * norm)


linearized = jax.jit(lambda op: op.linearize())
_start = jax.jit(krylov_start, static_argnames=("capacity", "flatten"))
_grow = jax.jit(krylov_grow, static_argnames="capacity")
_update = jax.jit(krylov_update, donate_argnums=0)
_settled = jax.jit(settled, static_argnames=("num_top", "num_bottom"))


def apply_product(product: Any, struct: PyTree, vector: PyTree) -> PyTree:
    """``product(vector)``, compiled, in the operator's dtypes ``struct``."""
    return _apply(product, tree.cast_like(vector, struct))


_apply = jax.jit(lambda product, vector: product(vector))
