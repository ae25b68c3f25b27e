"""The Krylov step: one product in, one orthonormal vector out, from any number of start vectors.

The basis holds ``used`` vectors whose products are known and, behind them, ``width`` pending ones, orthonormal to them
and to each other, with A Q = Q K exactly: column j of K has the coefficients of A qⱼ in the used and pending vectors as
they were measured. With one start vector this is Lanczos; with several, the band form of block Lanczos, in which each
product goes where it is needed most. Thick restarts and warm starts are other ways to fill the same structure.

Classical Gram-Schmidt against the whole basis: without it a float32 run returns one eigenvalue many times over, each
copy with a small residual. The part of a product in the basis lies in a band of vectors next to the last, but after a
restart or a turn. It is taken out first, at next to no price; one pass over the whole basis then removes rounding, and
another follows only where that one took out more than it left ("twice is enough"). Where the Krylov space is exhausted
(what is left of a product is rounding) the step goes on with a random vector orthogonal to it, so that K stays an exact
compression of the operator.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.spectral.projected import safe_norms

NOTHING = 4
"""Units of rounding that is left of a random vector, in its own length, where the basis spans the whole space: passes
leave ever less of it then, while what lies beside a basis stays as it is."""


@pytree_dataclass
class KrylovState:
    """A Krylov run between two steps; a pytree, so that it can be saved.

    Attributes:
        basis: orthonormal vectors in ``capacity`` places: the used ones, the pending ones, zeros.
        vector: the pending vector that is multiplied next, in the shapes of the operator and the accumulation dtypes.
        matrix: (capacity, capacity); column j has the coefficients of A qⱼ, for j below ``used``, else 0.
        guess: (width, width), what the compression of A to the pending vectors may be, from an earlier run or 0; it
            chooses directions and enters no result.
        used: int32 scalar, vectors whose products are known.
        num_products: int32 scalar, products taken.
        num_breakdowns: int32 scalar, how often the Krylov space was exhausted.
        asymmetry: scalar, greatest difference of two entries of K that symmetry makes equal, before restarts.
        rounding: (capacity,), most that the norm of column j of A Q − Q K can be: a basis in bfloat16 holds rounded
            vectors, and a restart drops what products that are not symmetric had in the vectors that it drops; else 0.
        seed: uint32 scalar of the random vectors.
    """

    basis: PyTree
    vector: PyTree
    matrix: jax.Array
    guess: jax.Array
    used: jax.Array
    num_products: jax.Array
    num_breakdowns: jax.Array
    asymmetry: jax.Array
    rounding: jax.Array
    seed: jax.Array

    @property
    def capacity(self) -> int:
        """Places in the basis."""
        return self.matrix.shape[0]

    @property
    def width(self) -> int:
        """Pending vectors."""
        return self.guess.shape[0]


def krylov_start(
    vectors: PyTree, key: jax.Array, capacity: int, flatten: bool, guess: jax.Array | None = None, half: bool = False
) -> KrylovState:
    """State before the first step.

    Args:
        vectors: start vectors with leaves (width, *shape), any scale; one that is not finite or, up to rounding, a
            combination of those before it is replaced by a random one.
        key: typed PRNG key.
        capacity: places in the basis: at least width more than the steps to come before a restart.
        flatten: layout of the basis, see ``cljax.tree``.
        guess: None, or (width,), Rayleigh quotients that the start vectors may have.
        half: store the basis in bfloat16.

    Returns:
        The state.
    """
    vectors = tree.to_work(vectors)
    width = jax.tree.leaves(vectors)[0].shape[0]
    dtype = jnp.result_type(*jax.tree.leaves(vectors))
    first = jax.tree.map(lambda x: x[0], vectors)
    basis = tree.basis_zeros(first, width, flatten, half)
    seed = jax.random.bits(key, dtype=jnp.uint32)

    def add(index: jax.Array, basis: PyTree) -> PyTree:
        vector = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), vectors)
        vector = _independent(basis, vector, seed - 1 - index.astype(jnp.uint32))
        return tree.basis_set(basis, index, vector)

    one = width == 1
    basis = tree.basis_set(basis, 0, _unit(first, seed - 1)) if one else jax.lax.fori_loop(0, width, add, basis)
    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    square = jnp.zeros((width, width), dtype)
    diagonal = jnp.zeros((width, width), dtype) if guess is None else jnp.diag(guess.astype(dtype))
    vector = tree.basis_get(basis, 0, first)
    state = KrylovState(basis, vector, square, diagonal, count, count, count, zero, square[0], seed)
    return krylov_grow(state, capacity)


def krylov_grow(state: KrylovState, capacity: int) -> KrylovState:
    """The same state with more places in the basis."""
    extra = capacity - state.capacity

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))

    matrix = jnp.pad(state.matrix, [(0, extra), (0, extra)])
    return dataclasses.replace(state, basis=jax.tree.map(pad, state.basis), matrix=matrix, rounding=pad(state.rounding))


def krylov_update(state: KrylovState, product: PyTree) -> KrylovState:
    """One step, given the product of the operator with ``state.vector``.

    Args:
        state: with room for one more vector.
        product: A q, in the dtypes of the operator.

    Returns:
        The next state; NaN in ``product`` makes this column of ``matrix`` NaN and all that come after it.
    """
    used, place = state.used, state.used + state.width
    w, column = _orthogonalize_to_band(state, tree.to_work(product))
    norm = jnp.max(safe_norms(state.matrix))

    def is_exhausted(found: jax.Array, rest: jax.Array) -> jax.Array:
        rounding = 8 * jnp.finfo(rest.dtype).eps
        nothing = (rest <= rounding * norm) | (rest == 0) | (_in_units(column + found, rest) >= 1 / rounding)
        return nothing | (place >= dimension(state))

    seed = state.seed + state.num_products.astype(jnp.uint32)
    following, found, rest, exhausted = _complement(state.basis, w, is_exhausted, seed)
    column = column + found
    following = tree.basis_round(state.basis, following)
    basis = tree.basis_set(state.basis, place, following)
    coupling, roundoff = jnp.where(exhausted, jnp.zeros_like(rest), rest), tree.basis_roundoff(basis)
    column = column.at[place].set(coupling)
    return dataclasses.replace(
        state,
        basis=basis,
        vector=following if state.width == 1 else tree.basis_get(basis, used + 1, following),
        matrix=state.matrix.at[:, used].set(column),
        guess=jnp.pad(state.guess[1:, 1:], (0, 1)),
        used=used + 1,
        num_products=state.num_products + 1,
        num_breakdowns=state.num_breakdowns + exhausted.astype(jnp.int32),
        rounding=state.rounding.at[used].set(roundoff * coupling) if roundoff else state.rounding,
    )


def krylov_step(product: Matvec, struct: PyTree, state: KrylovState) -> KrylovState:
    """One step with the product taken in the operator's own dtypes."""
    found = product(tree.from_rows(tree.cast_like(state.vector, struct)))
    return krylov_update(state, tree.rows_like(found, state.vector))


def dimension(state: KrylovState) -> int:
    """Entries of a vector, as far as they can be counted in int32: more than a basis can have vectors."""
    return min(tree.size(state.vector), 2**31 - 1)


def _orthogonalize(basis: PyTree, w: PyTree) -> tuple[PyTree, jax.Array]:
    coefficients = tree.basis_dot(basis, w)
    return tree.sub(w, tree.basis_combine(basis, coefficients, w)), coefficients


def _complement(
    basis: PyTree, w: PyTree, is_exhausted: Callable[[jax.Array, jax.Array], jax.Array], seed: jax.Array
) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
    """What is left of a vector beside the basis, of norm 1, or a random vector where it is exhausted.

    One loop of passes, whose code is there once: a second pass where the first took out more than it left, then the
    passes on the random vector. Nothing is left of that only where the basis spans the whole space; then 0 comes out.

    Args:
        basis: vectors, orthonormal or 0.
        w: the vector.
        is_exhausted: (coefficients, norm of what is left) -> whether that is nothing but rounding.
        seed: of the random vector.

    Returns:
        The vector, its coefficients, the norm of what was left, and whether the vector is the random one.
    """

    def one_pass(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        w, total, rest, _, count, replaced, _ = carry
        w, found = _orthogonalize(basis, w)
        length = tree.norm(w)
        total = jnp.where(replaced, total, total + found)
        rest = jnp.where(replaced, rest, length)
        settled = (_in_units(found, length) <= 1) | (count + 1 >= jnp.where(replaced, 4, 2))
        empty = settled & ~replaced & is_exhausted(total, rest)
        w = jax.lax.cond(empty, lambda: _unit_random(seed, w), lambda: w)
        return w, total, rest, length, jnp.where(empty, 0, count + 1), replaced | empty, settled & ~empty

    dtype = jnp.result_type(*jax.tree.leaves(w))
    zeros, zero, no = jnp.zeros(jax.tree.leaves(basis)[0].shape[0], dtype), jnp.zeros((), dtype), jnp.array(False)
    start = (w, zeros, zero, zero, jnp.zeros((), jnp.int32), no, no)
    w, total, rest, length, _, replaced, _ = jax.lax.while_loop(lambda carry: ~carry[-1], one_pass, start)
    none = replaced & (length <= NOTHING * jnp.finfo(dtype).eps)
    known = jnp.where(length > tree.invertible(length), jnp.nan, length)  # else the quotient may be 0
    return tree.normalize(w, jnp.where(none, jnp.inf, known)), total, rest, replaced


def _unit_random(seed: jax.Array, like: PyTree) -> PyTree:
    fresh = tree.scattered_like(seed, like)
    return tree.normalize(fresh, tree.norm(fresh))


def _unit(vector: PyTree, seed: jax.Array) -> PyTree:
    """A vector of norm 1, or a random one where it is zero or not finite."""
    length = tree.norm(vector)
    usable = jnp.isfinite(length) & (length > 0)
    return jax.lax.cond(usable, lambda: tree.normalize(vector, length), lambda: _unit_random(seed, vector))


def _orthogonalize_to_band(state: KrylovState, w: PyTree) -> tuple[PyTree, jax.Array]:
    """Take from a product its part in the pending vectors and as many before them."""
    size = min(2 * state.width, state.capacity)
    first = jnp.clip(state.used - state.width, 0, state.capacity - size)
    band = jax.tree.map(lambda q: jax.lax.dynamic_slice_in_dim(q, first, size), state.basis)
    w, coefficients = _orthogonalize(band, w)
    return w, jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(state.rounding), coefficients, first, 0)


def _in_units(coefficients: jax.Array, unit: jax.Array) -> jax.Array:
    """Euclidean norm over a positive scalar, whatever the scale of both; NaN or infinite over 0."""
    return jnp.sqrt(jnp.sum(jnp.square(coefficients / unit)))


def _independent(basis: PyTree, vector: PyTree, seed: jax.Array) -> PyTree:
    length = tree.norm(vector)
    usable = jnp.isfinite(length) & (length > 0)
    vector = jax.tree.map(lambda x: jnp.where(usable, x / length, 0), vector)
    least = jnp.sqrt(jnp.finfo(length.dtype).eps)
    return _complement(basis, vector, lambda _, rest: rest <= least, seed)[0]


def orthogonality(basis: PyTree, num_vectors: int | None = None) -> jax.Array:
    """Greatest entry of |Vᵀ V − I|.

    Args:
        basis: vectors as a basis keeps them, of norm 1 or 0.
        num_vectors: static; V is the first so many of them, all where not given.

    Returns:
        A scalar; vectors that are 0 count as orthonormal.
    """
    total = tree.basis_gram(basis)[:num_vectors, :num_vectors]  # a slice of the basis would be a copy of it
    norms = jnp.diag(total)
    return jnp.max(jnp.abs(total - jnp.diag(jnp.where(norms == 0, 0, jnp.ones_like(norms)))))
