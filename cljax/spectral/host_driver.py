"""The host loop of compiled Krylov steps, which can show progress, be saved, and keep its basis on the host."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._in_flight import landed
from cljax._layout import Rows
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.spectral.goal import Goal, check_due, judge, look
from cljax.spectral.host_basis import HostBasis
from cljax.spectral.host_loop import HostLoop, progress_bar
from cljax.spectral.host_numbers import lies_near, numbers_on_host
from cljax.spectral.host_run import HostRun
from cljax.spectral.krylov import KrylovState, krylov_grow, krylov_start, krylov_update
from cljax.spectral.memory import Memory
from cljax.spectral.restart import compress, num_kept
from cljax.spectral.run_file import SavedRun, check_repeated, load_run, save_run

_FIRST_SIZES = ((128, 2**22), (32, 2**28))
"""Places of the first basis and the most bytes that it may take: in a cache, in memory that nobody misses."""
_LEAST_FIRST = 16
_AT_ONCE = 64
"""Places that a basis gets at once where it takes little memory and may need no more of them."""


def capacities(capacity: int, width: int, memory: Memory, struct: PyTree) -> list[int]:
    """Places in the basis of a run on the device, as it grows: each size is a program more.

    Args:
        capacity: most places.
        width: pending vectors.
        memory: how the basis is kept; a bounded one has all its places at once.
        struct: shapes and dtypes of the operator's vectors.

    Returns:
        The sizes, ascending.
    """
    widest = max(tree.work_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(struct))
    vector_bytes = tree.size(struct) * (2 if memory.half else widest)
    first = next((places for places, most in _FIRST_SIZES if places * vector_bytes <= most), _LEAST_FIRST)
    little = _FIRST_SIZES[-1][1]
    whole = memory.basis_size is not None or (capacity <= _AT_ONCE and capacity * vector_bytes <= little)
    sizes = [capacity if whole else min(capacity, max(first, 2 * width))]
    while sizes[-1] < capacity:
        growth = 4 if 4 * sizes[-1] * vector_bytes <= little else 2
        sizes.append(min(capacity, growth * sizes[-1]))
    return sizes


class DeviceRun:
    """A run between two steps, the basis on the device; it hands its memory on from step to step.

    Args:
        state: before the first step.
    """

    def __init__(self, state: KrylovState) -> None:
        self.state = state
        self.near = lies_near(state)

    @property
    def looks_on_host(self) -> bool:
        """Whether looks take NumPy's goals: where nothing is turned on the device."""
        return self.near and self.state.width == 1

    @property
    def capacity(self) -> int:
        """Places in the basis."""
        return self.state.capacity

    @property
    def vector(self) -> PyTree:
        """What is multiplied next."""
        return self.state.vector

    def basis_vector(self, index: int) -> PyTree:
        """The basis vector in a place."""
        return _get(self.state.basis, index, self.state.vector)

    def coefficients(self, product: PyTree) -> np.ndarray:
        """Those of a product in the basis, (capacity,)."""
        return np.asarray(_dot(self.state.basis, product))

    def grow(self, capacity: int) -> None:
        """Make places."""
        self.state = _grow(self.state, capacity)

    def update(self, product: PyTree) -> None:
        """Take in the product of the operator with ``vector``."""
        self.state = _update(self.state, product)

    def look(self, goal: Goal, jumped: Any) -> tuple[Any, Any]:
        """Judge the run and turn the pending vectors, see ``cljax.spectral.goal.look``."""
        if self.looks_on_host:
            with np.errstate(all="ignore"):  # what is not finite is told by the numbers
                return judge(numbers_on_host(self.state), goal, jumped)[1:]
        self.state, jumped, done = _look(self.state, goal, jumped)
        return jumped, done

    def compress(self, num_top: int, num_bottom: int) -> None:
        """Restart, see ``cljax.spectral.restart.compress``."""
        self.state = _compress(self.state, num_top, num_bottom)

    def rows(self) -> list[np.ndarray]:
        """The basis vectors that there are, leaf by leaf."""
        filled = int(self.state.used) + self.state.width
        basis = _whole(jax.tree.map(lambda q: q[:filled], self.state.basis))
        return [np.asarray(q).reshape(filled, -1) for q in jax.tree.leaves(basis)]

    def load(self, state: KrylovState, rows: Sequence[np.ndarray]) -> None:
        """Go on from a saved run."""
        mine = self.state.basis
        layout = mine.layout if isinstance(mine, Rows) else None
        like = jax.tree.leaves(mine)

        def place(saved: np.ndarray, index: int) -> Any:
            padded = np.pad(saved, [(0, state.capacity - len(saved)), (0, 0)])
            if layout is not None:
                return padded.reshape(state.capacity, *layout.shapes[index])
            return jax.device_put(padded.reshape(state.capacity, *like[index].shape[1:]), like[index].sharding)

        leaves = [place(saved, index) for index, saved in enumerate(rows)]
        structure: Any = jax.tree.structure(mine) if layout is None else layout.structure
        basis = structure.unflatten(leaves)
        basis = basis if layout is None else split(layout.put(basis), layout)
        vector = _get(basis, state.used, self.state.vector)
        self.state = dataclasses.replace(state, basis=basis, vector=vector)

    def result(self) -> KrylovState:
        """The state."""
        return self.state

    @property
    def numbers(self) -> KrylovState:
        """The state, on the host where that costs nothing."""
        return numbers_on_host(self.state) if self.near else self.state


def run_on_host(
    multiply: Callable[[PyTree], PyTree],
    struct: PyTree,
    vectors: PyTree,
    key: jax.Array,
    goal: Goal | None,
    guess: jax.Array | None,
    num_steps: int,
    capacity: int,
    memory: Memory,
    loop: HostLoop,
    parts: Callable[[], Mapping[str, str]],
) -> tuple[KrylovState, jax.Array]:
    """Krylov steps until the wanted pairs are found, or for ``num_steps``, see ``cljax.spectral.driver``.

    Args:
        multiply: the operator's product.
        struct: shapes, dtypes and shardings of the operator's vectors.
        vectors: start vectors with leaves (width, *shape), in their shardings.
        key: typed PRNG key of random vectors.
        goal: what to look for; with None all steps are taken.
        guess: None, or (width,), Rayleigh quotients that the start vectors may have.
        num_steps: most products.
        capacity: most places in the basis.
        memory: how the basis is kept.
        loop: progress and checkpoints.
        parts: gives the fingerprint of the run.

    Returns:
        The final state, and whether the spectrum was found to have jumped since the kept vectors of a warm start.

    Raises:
        ValueError: if the checkpoint file is broken, or that of another run.
    """
    width = jax.tree.leaves(vectors)[0].shape[0]
    run, sizes = _begin(struct, vectors, key, guess, capacity, memory)
    done, path = False, None
    jumped: Any = np.bool_(False) if run.looks_on_host else jnp.zeros_like(run.state.used, bool)
    if goal is not None and run.looks_on_host:
        goal = goal.on_host()
    if loop.checkpoint is not None:
        path, mark = pathlib.Path(loop.checkpoint), parts()
        saved = load_run(path, mark, len(jax.tree.leaves(struct)))
        if saved is not None:
            run.load(saved.state, saved.rows)
            jumped, done = jumped | saved.jumped, saved.done
            product = tree.to_work(multiply(run.basis_vector(int(run.numbers.used) - 1)))
            roundoff = float(jnp.finfo(run.numbers.matrix.dtype).eps) ** 0.5 + 2.0**-6 * memory.half
            check_repeated(path, run.coefficients(product), run.state, roundoff)
    used, start = int(run.numbers.used), int(run.numbers.num_products)
    with progress_bar(loop.progress, num_steps, goal) as show:
        for step in range(start + 1, num_steps + 1 if not done else 0):
            if run.capacity == used + width:
                if run.capacity < capacity:
                    run.grow(min(size for size in sizes if size > run.capacity))
                elif goal is not None:
                    kept = num_kept(capacity - width, goal.num_top, goal.num_bottom)
                    run.compress(*kept)
                    used = sum(kept)
            run.update(multiply(run.vector))
            landed(run.vector)
            used += 1
            if goal is not None and check_due(step, goal, width):
                jumped, found = run.look(goal, jumped)
                done = bool(found)
            done |= step == num_steps
            if path is not None and (done or step % loop.checkpoint_every == 0):
                save_run(path, mark, SavedRun(run.state, run.rows(), bool(jumped), done))
            show(run)
            if done:
                break
    return run.result(), jumped


def _begin(
    struct: PyTree, vectors: PyTree, key: jax.Array, guess: jax.Array | None, capacity: int, memory: Memory
) -> tuple[Any, list[int]]:
    """A run before its first step, and the sizes to which its basis grows."""
    width = jax.tree.leaves(vectors)[0].shape[0]
    if memory.offload:
        return HostRun(HostBasis(struct, width, capacity), vectors, key, capacity, guess), [capacity]
    sizes = capacities(capacity, width, memory, struct)
    return DeviceRun(_start(vectors, key, sizes[0], tree.is_replicated(vectors), guess, memory.half)), sizes


_start = quick_jit(krylov_start, static_argnames=("capacity", "flatten", "half"))
_grow = quick_jit(krylov_grow, static_argnames="capacity")
_update = quick_jit(krylov_update, donate_argnums=0)
_look = quick_jit(look, donate_argnums=0)
_compress = quick_jit(compress, static_argnames=("num_top", "num_bottom"), donate_argnums=0)
_get = quick_jit(tree.basis_get)
_dot = quick_jit(tree.basis_dot)
_whole = quick_jit(tree.whole)


@quick_jit(static_argnames="layout")
def split(vectors: PyTree, layout: Any) -> PyTree:
    """Vectors with leaves (k, *shape) as a run keeps them in a layout."""
    return layout.rows_of(vectors)
