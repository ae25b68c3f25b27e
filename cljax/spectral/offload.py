"""A Krylov run whose basis lies in the host's memory.

The Krylov step, the looks and the restarts act on a basis only through coefficients. Here they run as they are, in the
space of coefficients, where the basis vectors are unit vectors: what becomes of these says what to do with the vectors
on the host. The step's product is orthogonalized on the host first, in two passes, which takes two moves of one vector;
moving the basis through the device would take four of all of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._typing import PyTree
from cljax.spectral.goal import Goal, look
from cljax.spectral.krylov import KrylovState, krylov_start, krylov_update
from cljax.spectral.restart import compress

_PIECE = 1 << 16


_QUIET = np.errstate(invalid="ignore")
"""BLAS kernels may raise the flag of an invalid operation for finite vectors; NaN of the operator stays NaN."""


class HostBasis:
    """m vectors in NumPy arrays, one for each leaf.

    Args:
        like: pytree of ``jax.ShapeDtypeStruct``, a vector in the accumulation dtypes.
        capacity: m.
    """

    def __init__(self, like: PyTree, capacity: int) -> None:
        leaves = jax.tree.leaves(like)
        self._structure: Any = jax.tree.structure(like)
        self._shapes = [x.shape for x in leaves]
        self.rows = [np.zeros((capacity, x.size), x.dtype) for x in leaves]

    @property
    def dimension(self) -> int:
        """Entries of a vector, n."""
        return sum(rows.shape[1] for rows in self.rows)

    def flat(self, vector: PyTree) -> list[np.ndarray]:
        """A vector in the host's memory, to be changed in place."""
        pairs = zip(jax.tree.leaves(vector), self.rows, strict=True)
        return [np.array(x, rows.dtype).reshape(-1) for x, rows in pairs]

    def get(self, index: int) -> PyTree:
        """The vector in place ``index``."""
        return self._structure.unflatten([q[index].reshape(s) for q, s in zip(self.rows, self._shapes, strict=True)])

    def put(self, index: int, vector: Sequence[np.ndarray], length: float) -> None:
        """``vector / length`` in place ``index``."""
        for rows, x in zip(self.rows, vector, strict=True):
            np.divide(x, length, out=rows[index])

    @_QUIET
    def orthogonalize(self, vector: Sequence[np.ndarray], filled: int) -> np.ndarray:
        """Take from a vector, in place, its part in the first ``filled`` basis vectors: the coefficients, (m,)."""
        found = np.zeros(len(self.rows[0]), np.result_type(*self.rows))
        for rows, x in zip(self.rows, vector, strict=True):
            found[:filled] += rows[:filled] @ x
        for rows, x in zip(self.rows, vector, strict=True):
            x -= found[:filled].astype(x.dtype) @ rows[:filled]
        return found

    @_QUIET
    def recombine(self, matrix: np.ndarray, start: int = 0) -> None:
        """Replace k vectors from place ``start`` on by combinations of themselves, in place; ``matrix`` is (k, k)."""
        part = slice(start, start + len(matrix))
        for rows in self.rows:
            for column in range(0, rows.shape[1], _PIECE):
                piece = rows[part, column : column + _PIECE]
                piece[:] = matrix.astype(rows.dtype) @ piece

    @_QUIET
    def combine(self, coefficients: jax.Array) -> PyTree:
        """Combinations with coefficients (k, m): leaves (k, *shape)."""
        c = np.asarray(coefficients)
        found = [c.astype(q.dtype) @ q for q in self.rows]
        return self._structure.unflatten(
            [jnp.asarray(x.reshape(len(c), *s)) for x, s in zip(found, self._shapes, strict=True)]
        )


def _norm(vector: Sequence[np.ndarray]) -> float:
    greatest = max((float(np.max(np.abs(x), initial=0)) for x in vector), default=0.0)
    unit = greatest if 0 < greatest < np.inf else 1.0
    return unit * float(np.sqrt(sum(float(np.sum((x / unit) ** 2, dtype=np.float64)) for x in vector)))


class OffloadedRun:
    """A run between two steps, the basis on the host.

    Args:
        vectors: start vectors with leaves (width, *shape).
        key: typed PRNG key.
        capacity: places in the basis.
        guess: see ``krylov_start``.
        struct: shapes, dtypes and shardings of the operator's vectors.
    """

    def __init__(self, vectors: PyTree, key: jax.Array, capacity: int, guess: jax.Array | None, struct: PyTree) -> None:
        width = jax.tree.leaves(vectors)[0].shape[0]
        self._struct = struct
        self._like = tree.work_struct(struct)
        self._basis = HostBasis(self._like, capacity)
        start = _start(vectors, key, capacity=width, flatten=True)
        for rows, x in zip(self._basis.rows, jax.tree.leaves(start.basis), strict=True):
            rows[:width] = np.asarray(x)
        unit = jnp.eye(width, capacity, dtype=start.matrix.dtype)
        self.state = _start(unit, key, capacity=capacity, flatten=True, guess=guess)
        self._used, self._width = 0, width

    @property
    def capacity(self) -> int:
        """Places in the basis."""
        return self.state.capacity

    @property
    def vector(self) -> PyTree:
        """What is multiplied next."""
        return self.basis_vector(self._used)

    def basis_vector(self, index: int) -> PyTree:
        """The basis vector in a place, on the device."""
        return tree.place_like(jax.tree.map(jnp.array, self._basis.get(index)), self._struct)

    def coefficients(self, product: PyTree) -> np.ndarray:
        """Those of a product in the basis, (capacity,)."""
        return self._basis.orthogonalize(self._basis.flat(product), self._used + self._width)

    def update(self, product: PyTree) -> None:
        """Take in the product of the operator with ``vector``."""
        w, place = self._basis.flat(product), self._used + self._width
        column = self._basis.orthogonalize(w, place)
        column += self._basis.orthogonalize(w, place)
        rest = _norm(w) if place < self._basis.dimension else 0.0
        before = int(self.state.num_breakdowns)
        seed = self.state.seed + self.state.num_products.astype(jnp.uint32)
        self.state = _advance(self.state, column, rest)
        self._used += 1
        if int(self.state.num_breakdowns) > before:
            w, rest = self._random(seed, place)
        self._basis.put(place, w, rest if rest else 1.0)

    def _random(self, seed: jax.Array, place: int) -> tuple[list[np.ndarray], float]:
        w = self._basis.flat(tree.scattered_like(seed, self._like))
        length = _norm(w)
        for _ in range(3):
            self._basis.orthogonalize(w, place)
        left = _norm(w)
        if left <= np.sqrt(np.finfo(w[0].dtype).eps) * length:
            return [np.zeros_like(x) for x in w], 1.0
        return w, left

    def look(self, goal: Goal, jumped: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Judge the run and turn the pending vectors, see ``cljax.spectral.goal.look``."""
        self.state, jumped, done = _look(self.state, goal, jumped)
        if self._width > 1:
            pending = slice(self._used, self._used + self._width)
            self._basis.recombine(np.asarray(self.state.basis)[pending, pending], self._used)
        return jumped, done

    def compress(self, num_top: int, num_bottom: int) -> None:
        """Restart, see ``cljax.spectral.restart.compress``."""
        self.state = _compress(self.state, num_top, num_bottom)
        self._basis.recombine(np.asarray(self.state.basis))
        self._used = num_top + num_bottom

    def rows(self) -> list[np.ndarray]:
        """The basis vectors that there are, leaf by leaf."""
        return [q[: self._used + self._width] for q in self._basis.rows]

    def load(self, state: KrylovState, rows: Sequence[np.ndarray]) -> None:
        """Go on from a saved run."""
        self.state = dataclasses.replace(state, basis=self.state.basis, vector=self.state.vector)
        self._used = int(state.used)
        for mine, saved in zip(self._basis.rows, rows, strict=True):
            mine[: len(saved)] = saved

    def result(self) -> KrylovState:
        """The state, with the basis on the host and a vector of the operator's space."""
        vector = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._like)
        return dataclasses.replace(self.state, basis=self._basis, vector=vector)


def _units(state: KrylovState) -> KrylovState:
    """The state with unit vectors in all places that are filled."""
    filled = jnp.arange(state.capacity) < state.used + state.width
    return dataclasses.replace(state, basis=jnp.diag(filled.astype(state.matrix.dtype)))


@jax.jit
def _advance(state: KrylovState, column: jax.Array, rest: jax.Array) -> KrylovState:
    product = jnp.asarray(column, state.matrix.dtype).at[state.used + state.width].set(rest)
    return krylov_update(_units(state), product)


_start = jax.jit(krylov_start, static_argnames=("capacity", "flatten"))
_look = jax.jit(lambda state, goal, jumped: look(_units(state), goal, jumped))
_compress = jax.jit(
    lambda state, num_top, num_bottom: compress(_units(state), num_top, num_bottom), static_argnums=(1, 2)
)
