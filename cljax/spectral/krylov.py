"""The Lanczos step: one product in, one orthonormal vector out.

Classical Gram-Schmidt against the whole basis, twice: without it a float32 run returns one eigenvalue many times over,
each copy with a small residual. Where the Krylov space is exhausted (β below rounding) the step goes on with a random
vector orthogonal to it and β = 0, so that the tridiagonal matrix stays an exact compression of the operator.
"""

import functools

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree


@pytree_dataclass
class KrylovState:
    """A Lanczos run between two steps; a pytree, so that it can be saved.

    Attributes:
        basis: orthonormal vectors, ``step + 1`` of them set, in ``capacity`` places.
        vector: the newest of them, in the shapes of the operator and in the accumulation dtypes.
        alphas: (capacity,), diagonal of the tridiagonal matrix, ``step`` of them set.
        betas: (capacity,), ``betas[j]`` couples vectors j and j + 1; ``step`` of them set.
        step: int32 scalar, products taken.
        restarts: int32 scalar, how often the Krylov space was exhausted.
        key: typed PRNG key of the restarts.
    """

    basis: PyTree
    vector: PyTree
    alphas: jax.Array
    betas: jax.Array
    step: jax.Array
    restarts: jax.Array
    key: jax.Array

    @property
    def capacity(self) -> int:
        """Places in the basis."""
        return self.alphas.shape[0]


def krylov_start(vector: PyTree, key: jax.Array, capacity: int, flatten: bool) -> KrylovState:
    """State before the first step.

    Args:
        vector: start vector, not zero; any scale.
        key: typed PRNG key.
        capacity: places in the basis, one more than the steps to come.
        flatten: layout of the basis, see ``cljax.tree``.

    Returns:
        The state.
    """
    vector = tree.to_work(vector)
    vector = tree.normalize(vector, tree.norm(vector))
    dtype = jnp.result_type(*jax.tree.leaves(vector))
    basis = tree.basis_set(tree.basis_zeros(vector, capacity, flatten), 0, vector)
    zeros, count = jnp.zeros(capacity, dtype), jnp.zeros((), jnp.int32)
    return KrylovState(basis, vector, zeros, zeros, count, count, key)


def krylov_grow(state: KrylovState, capacity: int) -> KrylovState:
    """The same state with more places in the basis."""
    extra = capacity - state.capacity

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))

    basis, alphas, betas = jax.tree.map(pad, (state.basis, state.alphas, state.betas))
    return KrylovState(basis, state.vector, alphas, betas, state.step, state.restarts, state.key)


def krylov_update(state: KrylovState, product: PyTree) -> KrylovState:
    """One step, given the product of the operator with ``state.vector``.

    Args:
        state: with room for one more vector.
        product: A q, in the dtypes of the operator.

    Returns:
        The next state; NaN in ``product`` makes ``alphas`` and ``betas`` NaN from this step on.
    """
    step, dimension = state.step, tree.size(state.vector)
    eps = jnp.finfo(state.alphas.dtype).eps
    w, first = _orthogonalize(state.basis, tree.to_work(product))
    w, second = _orthogonalize(state.basis, w)
    alpha = (first + second)[step]
    beta = tree.norm(w)
    scale = jnp.max(jnp.abs(state.alphas)) + 2 * jnp.max(state.betas) + jnp.abs(alpha) + beta
    exhausted = (beta <= 8 * eps * scale) | (step + 1 >= dimension)
    key, restart_key = jax.random.split(state.key)

    def restart() -> PyTree:
        fresh = tree.random_like(restart_key, state.vector)
        length = tree.norm(fresh)
        for _ in range(3):
            fresh, _ = _orthogonalize(state.basis, fresh)
        left = tree.norm(fresh)
        # nothing is left of a random vector only where the basis spans the whole space
        return tree.scale(jnp.where(left > jnp.sqrt(eps) * length, 1 / left, 0), fresh)

    following = jax.lax.cond(exhausted, restart, lambda: tree.normalize(w, beta))
    return KrylovState(
        tree.basis_set(state.basis, step + 1, following),
        following,
        state.alphas.at[step].set(alpha),
        state.betas.at[step].set(jnp.where(exhausted, jnp.zeros_like(beta), beta)),
        step + 1,
        state.restarts + exhausted.astype(jnp.int32),
        key,
    )


def _orthogonalize(basis: PyTree, w: PyTree) -> tuple[PyTree, jax.Array]:
    coefficients = tree.basis_dot(basis, w)
    return tree.sub(w, tree.basis_combine(basis, coefficients, w)), coefficients


def krylov_step(product: Matvec, struct: PyTree, state: KrylovState) -> KrylovState:
    """One step with the product taken in the operator's own dtypes."""
    return krylov_update(state, product(tree.cast_like(state.vector, struct)))


def ritz_pairs(state: KrylovState, num_top: int, num_bottom: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Extreme eigenpairs of the tridiagonal matrix.

    Args:
        state: after at least one step.
        num_top: how many of the greatest.
        num_bottom: how many of the least.

    Returns:
        Values (k,) ascending, bottom ones first; coefficients (k, capacity) of the vectors in the basis; estimates
        (k,) of the residual norms, |β s|, +inf where the space is still too small; an estimate of the operator's norm.
    """
    values, vectors, norm = tridiagonal_eigh(state)
    wanted = jnp.concatenate([jnp.arange(num_bottom), state.step - num_top + jnp.arange(num_top)])
    index = jnp.clip(wanted, 0, jnp.maximum(state.step - 1, 0))
    coefficients = vectors[:, index].T
    last = jnp.maximum(state.step - 1, 0)
    residuals = jnp.abs(state.betas[last] * coefficients[:, last])
    residuals = jnp.where(state.step >= num_top + num_bottom, residuals, jnp.inf)
    return values[index], coefficients, residuals, norm


def tridiagonal_eigh(state: KrylovState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenpairs of the tridiagonal matrix of the steps taken so far.

    Args:
        state: after at least one step.

    Returns:
        Values (capacity,), the first ``step`` ascending and true, the others a value beyond the spectrum; vectors
        (capacity, capacity) in columns; a bound on the norm of the matrix.
    """
    used = jnp.arange(state.capacity) < state.step
    alphas = jnp.where(used, state.alphas, 0)
    coupling = jnp.where(jnp.arange(state.capacity) + 1 < state.step, state.betas, 0)
    norm = jnp.max(jnp.abs(alphas) + coupling + jnp.roll(coupling, 1))
    beyond = jnp.where(norm > 0, 2 * norm, 1)
    matrix = jnp.diag(jnp.where(used, alphas, beyond)) + jnp.diag(coupling[:-1], 1) + jnp.diag(coupling[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    poison = jnp.where(jnp.isfinite(norm), 0, jnp.nan)
    return values + poison, vectors + poison, norm


def orthogonality(vectors: PyTree) -> jax.Array:
    """Greatest entry of |Vᵀ V − I|.

    Args:
        vectors: a pytree with leaves (k, ...), k vectors of norm 1 or 0.

    Returns:
        A scalar; vectors that are 0 count as orthonormal.
    """

    def gram(x: jax.Array) -> jax.Array:
        flat = x.reshape(x.shape[0], -1)
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    total = functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(gram, vectors)))
    norms = jnp.diag(total)
    return jnp.max(jnp.abs(total - jnp.diag(jnp.where(norms == 0, 0, jnp.ones_like(norms)))))
