"""Bases of Krylov spaces: m vectors in one pytree, possibly stored in lower precision than they are worked with.

The public names are in ``cljax.tree``. Sums are accumulated in the dtype of the vectors. A basis of lower precision is
widened entry by entry inside of the reductions, so that no copy of it in the wider dtype is ever held.
"""

import functools
import math

import jax
import jax.numpy as jnp

from cljax._typing import PyTree

_HIGHEST = jax.lax.Precision.HIGHEST
_PIECE = 4096
"""Columns of a flat basis that are recombined at a time."""


def basis_zeros(vector: PyTree, num_vectors: int, flatten: bool = True, dtype: jnp.dtype | None = None) -> PyTree:
    """A basis of zero vectors.

    Args:
        vector: pytree of arrays or ``jax.ShapeDtypeStruct``.
        num_vectors: m.
        flatten: leaves (m, size) rather than (m, *shape).
        dtype: of the basis, or None for those of ``vector``; leaves of ``vector`` that are no wider keep theirs.

    Returns:
        The structure of ``vector`` with a leading axis of length m.
    """

    def leaf(x: jax.Array) -> jax.Array:
        narrow = dtype is not None and jnp.finfo(dtype).bits < jnp.finfo(x.dtype).bits
        shape = (math.prod(x.shape),) if flatten else x.shape
        return jnp.zeros((num_vectors, *shape), dtype if narrow else x.dtype)

    return jax.tree.map(leaf, vector)


def basis_round(basis: PyTree, vector: PyTree) -> PyTree:
    """``vector`` with the values that it would have in the basis, in its own dtypes."""

    def leaf(q: jax.Array, v: jax.Array) -> jax.Array:
        info = jnp.finfo(q.dtype)
        # a pair of casts would be undone by the compiler
        return v if q.dtype == v.dtype else jax.lax.reduce_precision(v, info.nexp, info.nmant)

    return jax.tree.map(leaf, basis, vector)


def basis_roundoff(basis: PyTree, vector: PyTree) -> float:
    """Greatest relative change of an entry by ``basis_round``: 0 for a basis in the dtypes of ``vector``."""
    pairs = zip(jax.tree.leaves(basis), jax.tree.leaves(vector), strict=True)
    return max(0.0 if q.dtype == v.dtype else float(jnp.finfo(q.dtype).eps) / 2 for q, v in pairs)


def basis_set(basis: PyTree, index: jax.Array | int, vector: PyTree) -> PyTree:
    """The basis with ``vector`` in place ``index``."""
    return jax.tree.map(lambda q, v: q.at[index].set(v.reshape(q.shape[1:]).astype(q.dtype)), basis, vector)


def basis_get(basis: PyTree, index: jax.Array | int, vector: PyTree) -> PyTree:
    """The vector in place ``index``, in the shapes and dtypes of ``vector``."""

    def leaf(q: jax.Array, v: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(q, index, keepdims=False).reshape(v.shape).astype(v.dtype)

    return jax.tree.map(leaf, basis, vector)


def basis_turn(basis: PyTree, start: jax.Array | int, matrix: jax.Array) -> PyTree:
    """The basis with k vectors from place ``start`` on replaced by combinations of them.

    Args:
        basis: m vectors.
        start: place of the first.
        matrix: (k, k); row i has the coefficients of the new vector i.

    Returns:
        The basis.
    """

    def leaf(q: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(q, start, matrix.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(q, _recombined(matrix, rows), start, 0)

    return jax.tree.map(leaf, basis)


def basis_recombine(basis: PyTree, matrix: jax.Array) -> PyTree:
    """Every vector of the basis replaced by a combination, in place: flat leaves are worked on piece by piece.

    Args:
        basis: m vectors.
        matrix: (m, m); row i has the coefficients of the new vector i.

    Returns:
        The new basis; a second copy of a leaf is held only where it is not flat.
    """

    def leaf(q: jax.Array) -> jax.Array:
        pieces = q.shape[1] // _PIECE if q.ndim == 2 else 0
        if q.ndim > 2 and jnp.finfo(q.dtype).bits < 32:
            return jax.lax.map(lambda row: _combined(row, q).astype(q.dtype), matrix.astype(jnp.float32))
        if not pieces:
            return whole(q)

        def body(index: jax.Array, q: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice_in_dim(q, index * _PIECE, _PIECE, 1)
            return jax.lax.dynamic_update_slice_in_dim(q, whole(part), index * _PIECE, 1)

        # what is left over comes first: two readers of one array would force a copy of it
        q = jax.lax.dynamic_update_slice_in_dim(q, whole(q[:, pieces * _PIECE :]), pieces * _PIECE, 1)
        return jax.lax.fori_loop(0, pieces, body, q)

    def whole(q: jax.Array) -> jax.Array:
        return _recombined(matrix, q)

    return jax.tree.map(leaf, basis)


def basis_dot(basis: PyTree, vector: PyTree) -> jax.Array:
    """Inner products of the m basis vectors with ``vector``: shape (m,)."""

    def leaf(q: jax.Array, v: jax.Array) -> jax.Array:
        axes = tuple(range(1, q.ndim))
        v = v.reshape(q.shape[1:])
        if q.dtype != v.dtype:
            return jnp.sum(q.astype(v.dtype) * v[None], axis=axes)
        return jnp.tensordot(q, v, (axes, tuple(a - 1 for a in axes)), precision=_HIGHEST)

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(leaf, basis, vector)))


def basis_combine(basis: PyTree, coefficients: jax.Array, vector: PyTree) -> PyTree:
    """Σⱼ coefficientsⱼ qⱼ.

    Args:
        basis: m vectors.
        coefficients: shape (m,), or (k, m) for k combinations.
        vector: a pytree with the shapes and dtypes that the result shall have.

    Returns:
        One vector like ``vector``, or for (k, m) its structure with leaves (k, *shape).
    """

    def leaf(q: jax.Array, v: jax.Array) -> jax.Array:
        c = coefficients.astype(v.dtype)
        if q.dtype == v.dtype:
            found = jnp.tensordot(c, q, 1, precision=_HIGHEST)
        else:
            found = _combined(c, q) if c.ndim == 1 else jax.lax.map(lambda row: _combined(row, q), c)
        return found.reshape(*c.shape[:-1], *v.shape)

    return jax.tree.map(leaf, basis, vector)


def _combined(coefficients: jax.Array, q: jax.Array) -> jax.Array:
    """One combination in the dtype of the coefficients, as a reduction that widens each entry as it is read."""
    return jnp.sum(coefficients.reshape(-1, *(1,) * (q.ndim - 1)) * q.astype(coefficients.dtype), axis=0)


def _recombined(matrix: jax.Array, rows: jax.Array) -> jax.Array:
    """All combinations of a few or short vectors, in their dtype."""
    dtype = jnp.promote_types(rows.dtype, jnp.float32)
    return jnp.tensordot(matrix.astype(dtype), rows.astype(dtype), 1, precision=_HIGHEST).astype(rows.dtype)
