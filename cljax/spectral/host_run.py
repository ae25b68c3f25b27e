"""A Krylov run whose basis lies in the host's memory, and all small matrices with it.

The same step as ``cljax.spectral.krylov``, and the same looks and restarts: these act on vectors through coefficients
alone. The device holds the vector that is multiplied; nothing but products is compiled.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._typing import PyTree
from cljax.spectral.goal import Goal, judge
from cljax.spectral.host_basis import HostBasis
from cljax.spectral.krylov import NOTHING, KrylovState
from cljax.spectral.projected import safe_norms
from cljax.spectral.restart import numbers_compressed
from cljax.spectral.turn import numbers_turned, reflection

_QUIET = np.errstate(all="ignore")
"""What is not finite is told by the numbers."""


class HostRun:
    """A run between two steps.

    Args:
        basis: an empty one.
        vectors: start vectors with leaves (width, *shape), see ``krylov_start``.
        key: typed PRNG key of random vectors.
        capacity: places in the basis.
        guess: see ``krylov_start``.
    """

    looks_on_host = True

    def __init__(
        self, basis: HostBasis, vectors: PyTree, key: jax.Array, capacity: int, guess: jax.Array | None
    ) -> None:
        self._width = jax.tree.leaves(vectors)[0].shape[0]
        dtype = jnp.result_type(*(tree.work_dtype(x.dtype) for x in jax.tree.leaves(vectors)))
        self._basis, self._key, self.capacity = basis, key, capacity
        self._like = jax.ShapeDtypeStruct((basis.dimension,), dtype)
        self._matrix = np.zeros((capacity, capacity), dtype)
        self._guess = np.diag(np.zeros(self._width, dtype) if guess is None else np.asarray(guess, dtype))
        self._asymmetry = self._greatest = np.zeros((), dtype)[()]
        self._rounding = np.zeros(capacity, dtype)  # of restarts: vectors are kept as they are worked with
        self._num_products = self._num_breakdowns = 0
        rows = jax.tree.map(np.asarray, vectors)
        for index in range(self._width):
            self._begin_with(jax.tree.map(operator.itemgetter(index), rows), index)

    @property
    def numbers(self) -> KrylovState:
        """The state without vectors and seed, as far as it is filled."""
        filled = self._basis.used + self._width
        return self._numbers(self._matrix[:filled, :filled])

    @property
    def state(self) -> KrylovState:
        """The state without vectors."""
        return dataclasses.replace(self._numbers(self._matrix), seed=self._seed)

    @property
    def vector(self) -> PyTree:
        """What is multiplied next."""
        return self._basis.vector

    def basis_vector(self, index: int) -> PyTree:
        """The basis vector in a place."""
        return self._basis.vector_at(index)

    def coefficients(self, product: PyTree) -> np.ndarray:
        """Those of a product in the basis, (capacity,)."""
        found = self._basis.orthogonalize(product)[1]
        return np.pad(found, (0, self.capacity - len(found)))

    @_QUIET
    def update(self, product: PyTree) -> None:
        """Take in the product of the operator with ``vector``, see ``cljax.spectral.krylov.krylov_update``."""
        used = self._basis.used
        place = used + self._width
        w, column, rest = self._basis.orthogonalize(product)
        taken = norm(column)
        exhausted = place >= self._basis.dimension or bool(
            np.isfinite(rest)
            & (rest <= 8 * np.finfo(column.dtype).eps * np.maximum(self._greatest, np.hypot(taken, rest)))
        )
        coupling = column.dtype.type(0 if exhausted else rest)
        if exhausted:
            w, rest = self._random(self._num_products)
        self._basis.append(w, rest)
        self._matrix[:place, used], self._matrix[place, used] = column, coupling
        self._greatest = np.maximum(self._greatest, norm(self._matrix[:, used]))
        self._guess, before = np.zeros_like(self._guess), self._guess
        self._guess[:-1, :-1] = before[1:, 1:]
        self._num_products += 1
        self._num_breakdowns += exhausted

    @_QUIET
    def look(self, goal: Goal, jumped: Any) -> tuple[Any, Any]:
        """Judge the run and turn the pending vectors, see ``cljax.spectral.goal.look``."""
        numbers = self.numbers
        direction, jumped, done = judge(numbers, goal, jumped)
        if self._width > 1:
            matrix: Any = reflection(direction)
            self._basis.turn(matrix)
            turned: Any = numbers_turned(numbers, matrix, 0.0)
            filled = numbers.capacity
            self._matrix[:filled, :filled], self._guess = turned.matrix, turned.guess
        return jumped, done

    @_QUIET
    def compress(self, num_top: int, num_bottom: int) -> None:
        """Restart, see ``cljax.spectral.restart.compress``; the basis is full."""
        numbers: Any
        rows: Any
        numbers, rows = numbers_compressed(self._numbers(self._matrix), num_top, num_bottom)
        self._basis.recombine(rows, int(numbers.used))
        self._matrix, self._asymmetry, self._rounding = numbers.matrix, numbers.asymmetry, numbers.rounding
        self._greatest = self._norm()

    def rows(self) -> list[np.ndarray]:
        """The basis vectors that there are, leaf by leaf."""
        return self._basis.rows()

    @_QUIET
    def load(self, state: Any, rows: Sequence[np.ndarray]) -> None:
        """Go on from a saved run."""
        self._matrix, self._guess = np.array(state.matrix), np.array(state.guess)
        self._asymmetry, self._rounding = np.asarray(state.asymmetry)[()], np.array(state.rounding)
        self._num_products, self._num_breakdowns = int(state.num_products), int(state.num_breakdowns)
        self._basis.load(rows)
        self._greatest = self._norm()

    def result(self) -> KrylovState:
        """The state as far as it is filled."""
        return dataclasses.replace(self.numbers, basis=self._basis)

    def _numbers(self, matrix: Any) -> KrylovState:
        used, products, breakdowns = map(np.int32, (self._basis.used, self._num_products, self._num_breakdowns))
        counts: Any = {"used": used, "num_products": products, "num_breakdowns": breakdowns, "seed": None}
        arrays: Any = {"guess": self._guess, "asymmetry": self._asymmetry, "rounding": self._rounding[: len(matrix)]}
        return KrylovState(None, self._like, matrix=matrix, **arrays, **counts)

    def _norm(self) -> Any:
        """The greatest norm of a column, each as ``update`` finds it."""
        return np.max([norm(column) for column in self._matrix.T])

    @functools.cached_property
    def _seed(self) -> Any:
        return np.asarray(jax.random.bits(self._key, dtype=jnp.uint32))

    @_QUIET
    def _begin_with(self, vector: PyTree, index: int) -> None:
        w, found, rest = self._basis.orthogonalize(vector)
        least = np.sqrt(np.finfo(found.dtype).eps) * np.hypot(norm(found), rest)
        if not (np.isfinite(rest) and rest > least):
            w, rest = self._random(-1 - index)
        self._basis.append(w, rest)

    @_QUIET
    def _random(self, offset: int) -> tuple[Any, Any]:
        """A random vector orthogonal to the basis, and its norm; infinite where the basis spans the whole space."""
        w, found, rest = self._basis.orthogonalize(self._basis.random(np.uint32((int(self._seed) + offset) % 2**32)))
        least = NOTHING * np.finfo(found.dtype).eps * np.hypot(norm(found), rest)
        w, _, rest = self._basis.orthogonalize(w)
        return w, rest if rest > least else np.inf


def norm(x: Any) -> Any:
    """The Euclidean norm of some numbers."""
    return safe_norms(x[:, None])[0]
