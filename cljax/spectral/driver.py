"""The two ways to repeat Krylov steps: one compiled loop, or a host loop of compiled steps.

The compiled loop never waits for the host, which costs over half of the time on an accelerator. The host loop is for
XLA's CPU backend, which runs a convolution inside of a loop body about four times slower than outside, and for
operators whose products run on the host; it grows the basis only as far as the run needs, and can show progress, be
saved and keep its basis on the host. Both take the same steps, so they agree up to rounding.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._current_mesh import on_its_mesh
from cljax._layout import Rows
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.differentiable import is_traced
from cljax.spectral.goal import Goal, check_due, look
from cljax.spectral.host_driver import run_on_host, split
from cljax.spectral.host_loop import HostLoop
from cljax.spectral.krylov import KrylovState, krylov_start, krylov_step
from cljax.spectral.memory import ALL, Memory, run_layout
from cljax.spectral.restart import compress, num_kept
from cljax.spectral.run_file import fingerprint

DRIVERS = ("auto", "compiled", "host")


def choose_driver(driver: Any, *arrays: Any) -> str:
    """Which of the two loops runs.

    Args:
        driver: "auto", "compiled", "host", or a ``HostLoop`` without options.
        *arrays: operators and pytrees of everything that the run takes; under a transformation only the compiled loop
            can run, and for operators whose products run on the host only the host loop.

    Returns:
        "compiled" or "host".

    Raises:
        ValueError: if the driver is not known, or cannot run here.
    """
    if isinstance(driver, HostLoop):
        if driver != HostLoop(checkpoint_every=driver.checkpoint_every):
            raise ValueError(f"driver: expected no options of the host loop here, got {driver}; pass 'host'")
        driver = "host"
    if driver not in DRIVERS:
        raise ValueError(f"driver: expected one of {list(DRIVERS)} or a HostLoop, got {driver!r}")
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


def choose_loop(driver: Any, *arrays: Any, memory: Memory | None = None) -> Any:
    """As ``choose_driver``, for runs that take the options of the host loop and ways to keep the basis.

    Args:
        driver: "auto", "compiled", "host" or a ``HostLoop``.
        *arrays: see ``choose_driver``.
        memory: how the basis is kept, or None.

    Returns:
        "compiled" or a ``HostLoop``.

    Raises:
        ValueError: if the driver is not known, or cannot run here, or a checkpoint file or a basis on the host is to
            hold what lies in several processes.
    """
    loop = driver if isinstance(driver, HostLoop) else HostLoop()
    if memory is not None and memory.offload and driver == "auto":
        driver = "host"
    chosen = choose_driver("host" if isinstance(driver, HostLoop) else driver, *arrays)
    if memory is not None and memory.offload and chosen == "compiled":
        raise ValueError("driver: expected 'host' or 'auto' for a basis on the host, got 'compiled'")
    if chosen == "compiled":
        return chosen
    if loop.checkpoint is not None and not all(map(_is_here, jax.tree.leaves(arrays))):
        raise ValueError(
            "checkpoint: expected arrays of one process, got some that lie in several; leave the file out, the basis "
            "of such a run is in no process alone"
        )
    if memory is not None and memory.offload and not all(map(_is_here, jax.tree.leaves(_structs(arrays)))):
        raise ValueError(
            "memory: expected parameters that are whole in each process with offload, got some split over several; "
            "leave offload out, or spread the vectors over the devices with sharded=True"
        )
    return loop


def _structs(arrays: tuple[Any, ...]) -> list[Any]:
    """Where the vectors of the operators lie, but for those that each process has whole."""
    structs = [x for part in arrays if isinstance(part, LinearOperator) for x in jax.tree.leaves(part.struct)]
    return [x.sharding for x in structs if x.sharding is not None and not x.sharding.is_fully_replicated]


def _is_here(x: Any) -> bool:
    """Whether this process has all of an array, or all devices of a sharding."""
    return getattr(x, "is_fully_addressable", True)


def run_lanczos(
    driver: Any, op: LinearOperator, vector: PyTree, key: jax.Array, num_steps: int, memory: Memory = ALL
) -> KrylovState:
    """A given number of steps from one start vector.

    Args:
        driver: "compiled", "host" or a ``HostLoop``.
        op: symmetric operator.
        vector: start vector, not zero.
        key: typed PRNG key of the random vectors where the Krylov space is exhausted.
        num_steps: static, products.
        memory: static, how the basis is kept, all of it.

    Returns:
        The final state.
    """
    vectors = jax.tree.map(lambda x: x[None], vector)
    return run_krylov(driver, op, vectors, key, num_steps, memory=memory)[0]


def run_krylov(
    driver: Any,
    op: LinearOperator,
    vectors: PyTree,
    key: jax.Array,
    num_steps: int,
    goal: Goal | None = None,
    guess: jax.Array | None = None,
    memory: Memory = ALL,
) -> tuple[KrylovState, jax.Array]:
    """Krylov steps until the wanted pairs are found, or for ``num_steps``.

    Args:
        driver: "compiled", "host" or a ``HostLoop``.
        op: symmetric operator.
        vectors: start vectors with leaves (width, *shape), or as the run keeps them.
        key: typed PRNG key of random vectors.
        num_steps: static, most products.
        goal: what to look for; with None all steps are taken.
        guess: None, or (width,), Rayleigh quotients that the start vectors may have.
        memory: static, how the basis is kept. ``basis_size`` counts pending vectors too; with fewer than the steps
            need, a goal is needed, and the run restarts whenever the basis is full.

    Returns:
        The final state, and whether the spectrum was found to have jumped since the kept vectors of a warm start.
    """
    layout, given = run_layout(op, memory), vectors
    if not isinstance(vectors, Rows):
        whole = memory.layout(op.struct) is None
        vectors = tree.place_like(vectors, op.struct, leading_axes=1) if whole else vectors
        vectors = vectors if layout is None else split(layout.put(vectors), layout)
    capacity = num_steps + jax.tree.leaves(vectors)[0].shape[0]
    capacity = capacity if memory.basis_size is None else min(memory.basis_size, capacity)
    if driver == "compiled":
        sizes, flatten = (num_steps, capacity), tree.is_replicated(vectors)
        with on_its_mesh(op.struct):
            return _compiled(op, vectors, key, goal, guess, *sizes, flatten, memory.half)
    product, struct = linearized(op), op.struct

    def parts() -> dict[str, str]:
        arrays = {"key": key, "start vectors": given, "goal": (goal, guess)}
        wanted = goal and (goal.num_top, goal.num_bottom, goal.criterion, goal.certify)
        options = {"products": num_steps, "memory": (capacity, memory.half, memory.offload), "pairs": wanted}
        return fingerprint(op, arrays, options)

    def multiply(vector: PyTree) -> PyTree:
        return apply_product(product, struct, vector)

    loop = driver if isinstance(driver, HostLoop) else HostLoop()
    return run_on_host(multiply, struct, vectors, key, goal, guess, num_steps, capacity, memory, loop, parts)


@partial(jax.jit, static_argnames=("num_steps", "capacity", "flatten", "half"))
def _compiled(
    op: LinearOperator,
    vectors: PyTree,
    key: jax.Array,
    goal: Goal | None,
    guess: jax.Array | None,
    num_steps: int,
    capacity: int,
    flatten: bool,
    half: bool,
) -> tuple[KrylovState, jax.Array]:
    product, struct = op.linearize(), op.struct
    state = krylov_start(vectors, key, capacity, flatten, guess, half)
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
        return compress(state, *kept, done), jumped, done

    return jax.lax.while_loop(unfinished, run_and_restart, carry)[:2]


_linearized = jax.jit(lambda op: op.linearize())


def linearized(op: LinearOperator) -> Any:
    """The operator's product with all work done that does not depend on the vector, for ``apply_product``."""
    if not op.host_only:
        return _linearized(op)
    product: Any = op.linearize()
    return product.__call__  # no pytree, by which ``apply_product`` knows that it cannot be compiled


def apply_product(product: Any, struct: PyTree, vector: PyTree) -> PyTree:
    """``product(vector)`` in the operator's dtypes ``struct``: compiled, or on the host for streamed operators."""
    vector = tree.cast_like(vector, struct)
    if isinstance(product, jax.tree_util.Partial):
        found = _apply(product, vector)
        if is_traced(found) and not is_traced((product, vector)):
            raise ValueError(
                "op: expected a function whose arrays are among its arguments, got a traced array in a closure; "
                "pass it in args, as in FunctionOperator(fn, struct, array)"
            )
        return found
    return _rows_like(product(_from_rows(vector)), vector) if isinstance(vector, Rows) else product(vector)


_apply = jax.jit(lambda product, vector: tree.rows_like(product(tree.from_rows(vector)), vector))
_from_rows, _rows_like = jax.jit(tree.from_rows), jax.jit(tree.rows_like)
