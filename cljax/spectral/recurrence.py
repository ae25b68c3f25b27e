"""Short recurrences on random probes: states of a few vectors, one product a step, no basis.

A recurrence is a state with the vector to multiply next in ``vector``, and a function ``update(state, product)``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._current_mesh import on_its_mesh
from cljax._in_flight import landed
from cljax._quick import quick_jit
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import apply_product, linearized
from cljax.spectral.memory import run_layout
from cljax.spectral.probes import one_vector


def each_probe(
    driver: Any,
    op: LinearOperator,
    key: jax.Array,
    num_probes: int,
    run: Callable[..., Any],
    num_steps: int,
    *args: Any,
) -> Any:
    """Run one recurrence for each of several Rademacher probes, one after another, on one linearization.

    Args:
        driver: "compiled", or anything else for the host loop.
        op: symmetric operator.
        key: typed PRNG key.
        num_probes: how many.
        run: ``run(driver, product, struct, probe, num_steps, *args)`` for a unit probe; a function of a module.
        num_steps: static, handed on.
        *args: pytrees of arrays, handed on.

    Returns:
        What ``run`` returns, stacked along a new first axis.
    """
    keys, layout = probe_keys(key, num_probes)[:, 0], run_layout(op)
    if driver == "compiled":
        with on_its_mesh(op.struct):
            return landed(_each_compiled(op, keys, args, run, num_steps, layout))
    product = linearized(op)
    found = []
    for k in keys:
        probe = one_vector(unit_probe, k, op.struct, layout)
        found.append(landed(run(driver, product, op.struct, probe, num_steps, *args)))
    return jax.tree.map(lambda *xs: jnp.stack(xs), *found)


@quick_jit(static_argnums=1)
def probe_keys(key: jax.Array, num_probes: int) -> jax.Array:
    """For each probe the key of its entries and one for all else, (num_probes, 2)."""
    return jax.vmap(jax.random.split)(jax.random.split(key, num_probes))


@partial(jax.jit, static_argnames=("run", "num_steps", "layout"))
def _each_compiled(
    op: LinearOperator,
    keys: jax.Array,
    args: tuple[Any, ...],
    run: Callable[..., Any],
    num_steps: int,
    layout: Any,
) -> Any:
    product, struct = op.linearize(), op.struct
    like = struct if layout is None else layout.row_shapes(struct)

    def one(key: jax.Array) -> Any:
        return run("compiled", product, struct, unit_probe(key, like), num_steps, *args)

    return jax.lax.map(one, keys)


def unit_probe(key: jax.Array, struct: PyTree) -> PyTree:
    """Independent entries ±1/√n in the accumulation dtypes of ``struct``."""
    signs = tree.random_like(key, tree.work_struct(struct), "rademacher")
    return tree.scale(tree.size(struct) ** -0.5, signs)


def repeat(
    driver: Any, product: Matvec, struct: PyTree, update: Callable[[Any, PyTree], Any], state: Any, num_steps: int
) -> Any:
    """Take the steps of a recurrence.

    Args:
        driver: "compiled" for a loop inside of the caller's jit, else a loop of compiled steps from the host.
        product: ``v -> A v`` in the operator's dtypes.
        struct: shapes and dtypes of the operator's vectors.
        update: ``update(state, A state.vector) -> state``; a function of a module.
        state: before the first step; the host loop hands its memory on from step to step.
        num_steps: static.

    Returns:
        The state after ``num_steps`` products.
    """
    if driver == "compiled":

        def step(_: jax.Array, state: Any) -> Any:
            found = product(tree.from_rows(tree.cast_like(state.vector, struct)))
            return update(state, tree.rows_like(found, state.vector))

        return jax.lax.fori_loop(0, num_steps, step, state)
    for _ in range(num_steps):
        state = _update(state, apply_product(product, struct, state.vector), update)
        landed(state.vector)
    return state


@quick_jit(static_argnames="update", donate_argnums=0)
def _update(state: Any, product: PyTree, update: Callable[[Any, PyTree], Any]) -> Any:
    return update(state, product)
