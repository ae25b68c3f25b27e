"""Bases of Krylov spaces: m vectors in one pytree, stored as they are worked with or in bfloat16.

The public names are in ``cljax.tree``. Sums are accumulated in the dtype of the vectors. A basis in bfloat16 holds the
bit patterns as uint16: a compiler that does not calculate in bfloat16 would otherwise keep a wide copy of all of it.
"""

import functools
import math

import jax
import jax.numpy as jnp

from cljax._layout import on_shards
from cljax._typing import PyTree

_HIGHEST = jax.lax.Precision.HIGHEST
_BITS = jnp.uint16
_PIECE = 4096
"""Columns of a flat basis that are recombined at a time."""


def basis_zeros(vector: PyTree, num_vectors: int, flatten: bool = True, half: bool = False) -> PyTree:
    """A basis of zero vectors.

    Args:
        vector: pytree of arrays or ``jax.ShapeDtypeStruct``.
        num_vectors: m.
        flatten: leaves (m, size) rather than (m, *shape), but for those too large to be counted.
        half: store in bfloat16 rather than in the dtypes of ``vector``.

    Returns:
        The structure of ``vector`` with a leading axis of length m.
    """

    def leaf(x: jax.Array) -> jax.Array:
        size = math.prod(x.shape)
        shape = (size,) if flatten and size < 2**31 else x.shape  # places in an axis are counted in int32
        return jnp.zeros((num_vectors, *shape), _BITS if half else x.dtype)

    return on_shards(lambda v: jax.tree.map(leaf, v), vector, out="basis")


def basis_round(basis: PyTree, vector: PyTree) -> PyTree:
    """``vector`` with the values that it would have in the basis, in its own dtypes."""
    # a cast to bfloat16 and back would be left out by the compiler
    return jax.tree.map(lambda q, v: jax.lax.reduce_precision(v, 8, 7) if q.dtype == _BITS else v, basis, vector)


def basis_roundoff(basis: PyTree) -> float:
    """Greatest relative change of an entry by ``basis_round``: 0, or 2⁻⁸ for a basis in bfloat16."""
    return 2.0**-8 if any(q.dtype == _BITS for q in jax.tree.leaves(basis)) else 0.0


def basis_set(basis: PyTree, index: jax.Array | int, vector: PyTree) -> PyTree:
    """The basis with ``vector`` in place ``index``."""

    def leaf(at: jax.Array, q: jax.Array, v: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(q, _stored(v.reshape(q.shape[1:]), q.dtype), at, 0)

    def local(basis: PyTree, at: jax.Array, vector: PyTree) -> PyTree:
        return jax.tree.map(functools.partial(leaf, at), basis, vector)

    return on_shards(local, basis, jnp.asarray(index), vector, out="basis")


def basis_get(basis: PyTree, index: jax.Array | int, vector: PyTree) -> PyTree:
    """The vector in place ``index``, in the shapes and dtypes of ``vector``."""

    def leaf(at: jax.Array, q: jax.Array, v: jax.Array) -> jax.Array:
        return _values(jax.lax.dynamic_index_in_dim(q, at, keepdims=False), v.dtype).reshape(v.shape)

    def local(basis: PyTree, at: jax.Array, vector: PyTree) -> PyTree:
        return jax.tree.map(functools.partial(leaf, at), basis, vector)

    return on_shards(local, basis, jnp.asarray(index), vector, out="vector")


def basis_turn(basis: PyTree, start: jax.Array | int, matrix: jax.Array) -> PyTree:
    """The basis with k vectors from place ``start`` on replaced by combinations of them.

    Args:
        basis: m vectors.
        start: place of the first.
        matrix: (k, k); row i has the coefficients of the new vector i.

    Returns:
        The basis.
    """

    def leaf(at: jax.Array, matrix: jax.Array, q: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(q, at, matrix.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(q, _recombined(matrix, rows), at, 0)

    def local(basis: PyTree, at: jax.Array, matrix: jax.Array) -> PyTree:
        return jax.tree.map(functools.partial(leaf, at, matrix), basis)

    return on_shards(local, basis, jnp.asarray(start), matrix, out="basis")


def basis_recombine(basis: PyTree, matrix: jax.Array) -> PyTree:
    """Every vector of the basis replaced by a combination, in place: flat leaves are worked on piece by piece.

    Args:
        basis: m vectors.
        matrix: (m, m); row i has the coefficients of the new vector i.

    Returns:
        The new basis; a second copy of a leaf is held only where it is not flat.
    """

    def leaf(matrix: jax.Array, q: jax.Array) -> jax.Array:
        if q.dtype == _BITS and q.ndim > 2:
            return jax.lax.map(lambda row: _stored(_combined(row, q), _BITS), matrix)
        pieces = q.shape[1] // _PIECE if q.ndim == 2 else 0
        if not pieces:
            return _recombined(matrix, q)

        def body(index: jax.Array, q: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice_in_dim(q, index * _PIECE, _PIECE, 1)
            return jax.lax.dynamic_update_slice_in_dim(q, _recombined(matrix, part), index * _PIECE, 1)

        # what is left over comes first: two readers of one array would force a copy of it
        rest = _recombined(matrix, q[:, pieces * _PIECE :])
        q = jax.lax.dynamic_update_slice_in_dim(q, rest, pieces * _PIECE, 1)
        return jax.lax.fori_loop(0, pieces, body, q)

    def local(basis: PyTree, matrix: jax.Array) -> PyTree:
        return jax.tree.map(functools.partial(leaf, matrix), basis)

    return on_shards(local, basis, matrix, out="basis")


def basis_dot(basis: PyTree, vector: PyTree) -> jax.Array:
    """Inner products of the m basis vectors with ``vector``: shape (m,)."""

    def leaf(q: jax.Array, v: jax.Array) -> jax.Array:
        axes = tuple(range(1, q.ndim))
        v = v.reshape(q.shape[1:])
        if q.dtype == _BITS:
            return jax.lax.map(lambda row: jnp.sum(_values(row, v.dtype) * v), q)
        return jnp.tensordot(q, v, (axes, tuple(a - 1 for a in axes)), precision=_HIGHEST)

    return on_shards(functools.partial(jax.tree.map, leaf), basis, vector, out="sum")


def basis_gram(basis: PyTree) -> jax.Array:
    """Inner products of the m basis vectors with each other, in their own dtypes: shape (m, m)."""

    def leaf(q: jax.Array) -> jax.Array:
        flat = q.reshape(q.shape[0], -1)
        return jnp.matmul(flat, flat.T, precision=_HIGHEST)

    return on_shards(functools.partial(jax.tree.map, leaf), basis, out="sum")


def basis_combine(basis: PyTree, coefficients: jax.Array, vector: PyTree) -> PyTree:
    """Σⱼ coefficientsⱼ qⱼ.

    Args:
        basis: m vectors.
        coefficients: shape (m,), or (k, m) for k combinations.
        vector: a pytree with the shapes and dtypes that the result shall have.

    Returns:
        One vector like ``vector``, or for (k, m) its structure with leaves (k, *shape).
    """

    def leaf(coefficients: jax.Array, q: jax.Array, v: jax.Array) -> jax.Array:
        c = coefficients.astype(v.dtype)
        found = _combined(c, q) if q.dtype == _BITS else jnp.tensordot(c, q, 1, precision=_HIGHEST)
        return found.reshape(*c.shape[:-1], *v.shape)

    def local(basis: PyTree, coefficients: jax.Array, vector: PyTree) -> PyTree:
        return jax.tree.map(functools.partial(leaf, coefficients), basis, vector)

    return on_shards(local, basis, coefficients, vector, out="vector" if coefficients.ndim == 1 else "basis")


def _values(q: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.lax.bitcast_convert_type(q, jnp.bfloat16).astype(dtype) if q.dtype == _BITS else q


def _stored(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), _BITS) if dtype == _BITS else x.astype(dtype)


def _combined(coefficients: jax.Array, q: jax.Array) -> jax.Array:
    """Combinations in the dtype of the coefficients, (m,) or (k, m), vector after vector, each widened when read."""

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        row = _values(jax.lax.dynamic_index_in_dim(q, index, keepdims=False), total.dtype)
        column = jax.lax.dynamic_index_in_dim(coefficients, index, -1, keepdims=False)
        return total + column.reshape(*column.shape, *(1,) * row.ndim) * row.reshape(*(1,) * column.ndim, *row.shape)

    zeros = jnp.zeros((*coefficients.shape[:-1], *q.shape[1:]), coefficients.dtype)
    return jax.lax.fori_loop(0, q.shape[0], add, zeros)


def _recombined(matrix: jax.Array, rows: jax.Array) -> jax.Array:
    """All combinations of vectors, few or short, stored as those are."""
    dtype = matrix.dtype if rows.dtype == _BITS else rows.dtype
    found = jnp.tensordot(matrix.astype(dtype), _values(rows, dtype), 1, precision=_HIGHEST)
    return _stored(found, rows.dtype)
