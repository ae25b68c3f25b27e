"""The two ways to repeat Krylov steps: one compiled loop, or a host loop of compiled steps.

The compiled loop never waits for the host, which costs over half of the time on an accelerator. The host loop is for
XLA's CPU backend, which runs a convolution inside of a loop body about four times slower than outside, and for
operators whose products run on the host; it grows the basis only as far as the run needs. Both take the same steps, so
they agree up to rounding.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.goal import Goal, check_due, look
from cljax.spectral.krylov import KrylovState, krylov_grow, krylov_start, krylov_step, krylov_update
from cljax.spectral.restart import compress, num_kept

DRIVERS = ("auto", "compiled", "host")
_FIRST_CAPACITY = 16


def choose_driver(driver: Any, *arrays: Any) -> str:
    """Which of the two loops runs.

    Args:
        driver: "auto", "compiled" or "host".
        *arrays: operators and pytrees of everything that the run takes; under a transformation only the compiled loop
            can run, and for operators whose products run on the host only the host loop.

    Returns:
        "compiled" or "host".

    Raises:
        ValueError: if the driver is not known, or cannot run here.
    """
    if driver not in DRIVERS:
        raise ValueError(f"driver: expected one of {list(DRIVERS)}, got {driver!r}")
    leaves = [leaf for leaf in jax.tree.leaves(arrays) if isinstance(leaf, jax.Array)]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if driver == "host" and traced:
        raise ValueError("driver: expected 'compiled' or 'auto' inside of jit, vmap or grad, got 'host'")
    if any(isinstance(part, LinearOperator) and part.host_only for part in arrays):
        if driver == "compiled":
            raise ValueError("driver: expected 'host' or 'auto' for a streamed operator, got 'compiled'")
        return "host"
    if driver != "auto":
        return driver
    if traced:
        return "compiled"
    platforms = {device.platform for leaf in leaves for device in leaf.devices()} or {jax.default_backend()}
    return "host" if platforms == {"cpu"} else "compiled"


def run_lanczos(driver: str, op: LinearOperator, vector: PyTree, key: jax.Array, num_steps: int) -> KrylovState:
    """A given number of steps from one start vector.

    Args:
        driver: "compiled" or "host".
        op: symmetric operator.
        vector: start vector, not zero.
        key: typed PRNG key of the random vectors where the Krylov space is exhausted.
        num_steps: static, products.

    Returns:
        The final state.
    """
    vectors = jax.tree.map(lambda x: x[None], vector)
    return run_krylov(driver, op, vectors, key, num_steps)[0]


def run_krylov(
    driver: str,
    op: LinearOperator,
    vectors: PyTree,
    key: jax.Array,
    num_steps: int,
    goal: Goal | None = None,
    guess: jax.Array | None = None,
    basis_size: int | None = None,
) -> tuple[KrylovState, jax.Array]:
    """Krylov steps until the wanted pairs are found, or for ``num_steps``.

    Args:
        driver: "compiled" or "host".
        op: symmetric operator.
        vectors: start vectors with leaves (width, *shape).
        key: typed PRNG key of random vectors.
        num_steps: static, most products.
        goal: what to look for; with None all steps are taken.
        guess: None, or (width,), Rayleigh quotients that the start vectors may have.
        basis_size: static, places in the basis, pending vectors included; None for as many as the steps need. With
            fewer, a goal is needed, and the run restarts whenever the basis is full.

    Returns:
        The final state, and whether the spectrum was found to have jumped since the kept vectors of a warm start.
    """
    vectors = tree.place_like(vectors, op.struct, leading_axes=1)
    flatten = tree.is_replicated(vectors)
    capacity = num_steps + jax.tree.leaves(vectors)[0].shape[0]
    capacity = capacity if basis_size is None else min(basis_size, capacity)
    if driver == "compiled":
        return _compiled(op, vectors, key, goal, guess, num_steps, capacity, flatten)
    return _host(op, vectors, key, goal, guess, num_steps, capacity, flatten)


@partial(jax.jit, static_argnames=("num_steps", "capacity", "flatten"))
def _compiled(
    op: LinearOperator,
    vectors: PyTree,
    key: jax.Array,
    goal: Goal | None,
    guess: jax.Array | None,
    num_steps: int,
    capacity: int,
    flatten: bool,
) -> tuple[KrylovState, jax.Array]:
    product, struct = op.linearize(), op.struct
    state = krylov_start(vectors, key, capacity, flatten, guess)
    if goal is None:
        return jax.lax.fori_loop(0, num_steps, lambda _, s: krylov_step(product, struct, s), state), jnp.array(False)
    width = state.width

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, jumped, _ = carry
        state = krylov_step(product, struct, state)
        return jax.lax.cond(
            check_due(state.num_products, goal, width),
            lambda: look(state, goal, jumped),
            lambda: (state, jumped, jnp.array(False)),
        )

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        return ~carry[2] & (carry[0].num_products < num_steps)

    def has_room(carry: tuple[Any, ...]) -> jax.Array:
        return unfinished(carry) & (carry[0].used + width < capacity)

    carry = (state, jnp.array(False), jnp.array(False))
    if capacity >= num_steps + width:
        return jax.lax.while_loop(unfinished, step, carry)[:2]
    kept = num_kept(capacity - width, goal.num_top, goal.num_bottom)

    def run_and_restart(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, jumped, done = jax.lax.while_loop(has_room, step, carry)
        # a run that ended early has wanted pairs all the same, and places enough
        return compress(state, *kept), jumped, done

    return jax.lax.while_loop(unfinished, run_and_restart, carry)[:2]


def _host(
    op: LinearOperator,
    vectors: PyTree,
    key: jax.Array,
    goal: Goal | None,
    guess: jax.Array | None,
    num_steps: int,
    capacity: int,
    flatten: bool,
) -> tuple[KrylovState, jax.Array]:
    product = linearized(op)
    width = jax.tree.leaves(vectors)[0].shape[0]
    state = _start(vectors, key, min(capacity, max(_FIRST_CAPACITY, 2 * width)), flatten, guess)
    jumped, used = jnp.array(False), 0
    for step in range(1, num_steps + 1):
        if state.capacity == used + width:
            if state.capacity < capacity:
                state = _grow(state, min(capacity, 2 * state.capacity))
            elif goal is not None:
                kept = num_kept(capacity - width, goal.num_top, goal.num_bottom)
                state, used = _compress(state, *kept), sum(kept)
        state, used = _update(state, apply_product(product, op.struct, state.vector)), used + 1
        if goal is not None and check_due(step, goal, width):
            state, jumped, done = _look(state, goal, jumped)
            if done:
                break
    return state, jumped


_linearized = jax.jit(lambda op: op.linearize())
_start = jax.jit(krylov_start, static_argnames=("capacity", "flatten"))
_grow = jax.jit(krylov_grow, static_argnames="capacity")
_update = jax.jit(krylov_update, donate_argnums=0)
_look = jax.jit(look, donate_argnums=0)
_compress = jax.jit(compress, static_argnames=("num_top", "num_bottom"), donate_argnums=0)


def linearized(op: LinearOperator) -> Any:
    """The operator's product with all work done that does not depend on the vector, for ``apply_product``."""
    # the bound method is no pytree, by which ``apply_product`` knows that it cannot be compiled
    return op.linearize().__call__ if op.host_only else _linearized(op)


def apply_product(product: Any, struct: PyTree, vector: PyTree) -> PyTree:
    """``product(vector)`` in the operator's dtypes ``struct``: compiled, or on the host for streamed operators."""
    vector = tree.cast_like(vector, struct)
    return _apply(product, vector) if isinstance(product, jax.tree_util.Partial) else product(vector)


_apply = jax.jit(lambda product, vector: product(vector))
