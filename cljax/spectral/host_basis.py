"""The basis of a Krylov run in the host's memory.

Moving it through the device would cost four moves of all of it in each step; orthogonalized where it lies, a product
costs two moves of one vector.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._typing import PyTree

_PIECE = 1 << 16

_QUIET = np.errstate(invalid="ignore")
"""BLAS kernels may raise the flag of an invalid operation for finite vectors; NaN of the operator stays NaN."""


class HostBasis:
    """m vectors in NumPy arrays, one for each leaf: the used ones, behind them the pending ones.

    Args:
        struct: shapes, dtypes and shardings of the operator's vectors.
        width: pending vectors.
        capacity: m.
    """

    def __init__(self, struct: PyTree, width: int, capacity: int) -> None:
        like = tree.work_struct(struct)
        leaves = jax.tree.leaves(like)
        self._struct, self._like, self._width, self._filled = struct, like, width, 0
        self._structure: Any = jax.tree.structure(like)
        self._shapes = [x.shape for x in leaves]
        self._rows = [np.zeros((capacity, x.size), x.dtype) for x in leaves]

    @property
    def dimension(self) -> int:
        """Entries of a vector, n."""
        return sum(rows.shape[1] for rows in self._rows)

    @property
    def used(self) -> int:
        """Vectors whose products are known."""
        return max(self._filled - self._width, 0)

    @property
    def vector(self) -> PyTree:
        """The first pending vector, on the device."""
        return self.vector_at(self.used)

    def vector_at(self, place: int) -> PyTree:
        """The vector in a place, on the device."""
        parts = [jnp.array(q[place].reshape(s)) for q, s in zip(self._rows, self._shapes, strict=True)]
        return tree.place_like(self._structure.unflatten(parts), self._struct)

    @_QUIET
    def orthogonalize(self, vector: PyTree) -> tuple[list[np.ndarray], np.ndarray, Any]:
        """Take from a vector its part in the basis, twice.

        Args:
            vector: the vector.

        Returns:
            What is left, the coefficients of what was taken, (used + width,), and the norm of what is left.
        """
        pairs = zip(jax.tree.leaves(vector), self._rows, strict=True)
        w = [np.array(x, rows.dtype).reshape(-1) for x, rows in pairs]
        filled = self.used + self._width
        total = np.zeros(filled, np.result_type(*self._rows))
        for _ in range(2):
            found = np.zeros_like(total)
            for rows, x in zip(self._rows, w, strict=True):
                found += rows[:filled] @ x
            for rows, x in zip(self._rows, w, strict=True):
                x -= found.astype(x.dtype) @ rows[:filled]
            total += found
        return w, total, _norm(w)

    def append(self, vector: Sequence[np.ndarray], length: Any) -> None:
        """``vector / length`` becomes the last pending vector and, where there are enough, the first a used one."""
        for rows, x in zip(self._rows, vector, strict=True):
            np.divide(x, length, out=rows[self._filled])
        self._filled += 1

    def random(self, seed: Any) -> PyTree:
        """A vector by a hash of its places."""
        return tree.scattered_like(seed, self._like)

    def turn(self, matrix: np.ndarray) -> None:
        """Rotate the pending vectors."""
        self._replace(matrix, self.used)

    def recombine(self, rows: np.ndarray, kept: int) -> None:
        """Put the combinations ``rows`` (capacity, capacity) in the place of all vectors; ``kept`` of them are used."""
        self._replace(rows, 0)
        self._filled = kept + self._width

    @_QUIET
    def combine(self, coefficients: Any) -> PyTree:
        """Combinations with coefficients (k, used + width): leaves (k, *shape), on the device."""
        c = np.asarray(coefficients)
        found = [c.astype(q.dtype) @ q[: c.shape[1]] for q in self._rows]
        return self._structure.unflatten(
            [jnp.asarray(x.reshape(len(c), *s)) for x, s in zip(found, self._shapes, strict=True)]
        )

    def rows(self) -> list[np.ndarray]:
        """The vectors that there are, leaf by leaf, (used + width, size)."""
        return [q[: self._filled] for q in self._rows]

    def load(self, rows: Sequence[np.ndarray]) -> None:
        """Take the vectors that ``rows`` gave."""
        for mine, saved in zip(self._rows, rows, strict=True):
            mine[: len(saved)] = saved
        self._filled = len(rows[0])

    @_QUIET
    def _replace(self, matrix: np.ndarray, start: int) -> None:
        """Replace k vectors from place ``start`` on by combinations of themselves, in place; ``matrix`` is (k, k)."""
        part = slice(start, start + len(matrix))
        for rows in self._rows:
            for column in range(0, rows.shape[1], _PIECE):
                piece = rows[part, column : column + _PIECE]
                piece[:] = matrix.astype(rows.dtype) @ piece


def _norm(vector: Sequence[np.ndarray]) -> float:
    greatest = max((float(np.max(np.abs(x), initial=0)) for x in vector), default=0.0)
    unit = greatest if 0 < greatest < np.inf else 1.0
    return unit * float(np.sqrt(sum(float(np.sum((x / unit) ** 2, dtype=np.float64)) for x in vector)))
