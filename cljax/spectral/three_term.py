"""Lanczos by its three-term recurrence alone: no basis, for quadrature only.

In floating-point arithmetic the vectors lose their orthogonality once an eigenvalue has converged, and the tridiagonal
matrix then has that eigenvalue several times over. As eigenvalues these ghosts are wrong; as nodes of a quadrature they
share the weight of the one that they copy, so that integrals keep their value.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.spectral.projected import matmul
from cljax.spectral.recurrence import repeat


@pytree_dataclass
class ThreeTermState:
    """The recurrence between two steps.

    Attributes:
        previous: the vector before ``vector``; zeros before the first step.
        vector: a unit vector, or zeros where the Krylov space is exhausted.
        alphas: (m,), diagonal of the tridiagonal matrix.
        betas: (m,), ``betas[j]`` couples vectors j and j + 1.
        step: int32 scalar, products taken.
    """

    previous: PyTree
    vector: PyTree
    alphas: jax.Array
    betas: jax.Array
    step: jax.Array


def three_term_update(state: ThreeTermState, product: PyTree) -> ThreeTermState:
    """One step, given the product of the operator with ``state.vector``.

    Where the Krylov space is exhausted (β below rounding) the coupling is 0, and so is all that follows but the
    diagonal, which repeats its first entry: nodes inside of the spectrum, of weight 0. The first derivative of a
    quadrature is right there too; a second one, which lacks the coupling that a change of the operator brings, is
    not, mostly NaN.

    Args:
        state: with room for one more coefficient.
        product: A q, in the dtypes of the operator.

    Returns:
        The next state; NaN in ``product`` makes the coefficients NaN from this step on.
    """
    step = state.step
    before = jnp.where(step > 0, state.betas[step - 1], 0)
    dead = (step > 0) & (before == 0)
    w = tree.axpy(-before, state.previous, tree.to_work(product))
    alpha = jnp.where(dead, state.alphas[0], tree.vdot(state.vector, w))
    w = tree.axpy(-alpha, state.vector, w)
    beta = _length(w)
    scale = jnp.max(jnp.abs(state.alphas)) + 2 * jnp.max(state.betas) + jnp.abs(alpha) + beta
    exhausted = dead | (beta <= 8 * jnp.finfo(beta.dtype).eps * scale)
    w = _unit(w, beta, jnp.sqrt(jnp.finfo(beta.dtype).eps) * scale)
    beta = jnp.where(beta > tree.invertible(beta), jnp.nan, beta)  # the quotient may be 0
    return ThreeTermState(
        state.vector,
        jax.tree.map(lambda x: jnp.where(exhausted, jnp.zeros_like(x), x), w),
        state.alphas.at[step].set(alpha),
        state.betas.at[step].set(jnp.where(exhausted, jnp.zeros_like(beta), beta)),
        step + 1,
    )


def three_term_run(
    driver: Any, product: Matvec, struct: PyTree, probe: PyTree, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Coefficients of ``num_steps`` steps from a unit probe, see ``cljax.spectral.recurrence.each_probe``.

    Args:
        driver: "compiled", or anything else for the host loop.
        product: ``v -> A v``.
        struct: shapes and dtypes of the operator's vectors.
        probe: unit start vector in the accumulation dtypes.
        num_steps: m.

    Returns:
        ``alphas`` and ``betas``, each (m,); the last β is the norm of what is left.
    """
    zeros = jnp.zeros(num_steps, jnp.result_type(*jax.tree.leaves(probe)))
    start = ThreeTermState(tree.zeros_like(probe), probe, zeros, zeros + 0, jnp.zeros((), jnp.int32))
    end = repeat(driver, product, struct, three_term_update, start, num_steps)
    return end.alphas, end.betas


@jax.custom_jvp
def _length(w: PyTree) -> jax.Array:
    """Euclidean norm, with derivative 0 at 0: to first order e₁ᵀ f(T) e₁ sees nothing beyond an exhausted space."""
    return tree.norm(w)


@_length.defjvp
def _length_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (w,), (change,) = primals, tangents
    length = _length(w)
    direction = tree.normalize(w, jnp.where(length == 0, 1, length))
    return length, tree.vdot(direction, change).astype(length.dtype)


@jax.custom_jvp
def _unit(w: PyTree, length: jax.Array, least: jax.Array) -> PyTree:
    """``w / length``, with derivative 0 where the length is not above ``least``."""
    # what follows has a weight of the order of length² in e₁ᵀ f(T) e₁: below √eps of the norm of T less is lost than
    # the rounding that 1 / length would magnify
    return tree.normalize(w, length)


@_unit.defjvp
def _unit_jvp(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    w, length, least = primals
    none = length <= least
    safe = jnp.where(none, 1, length)
    change = tree.axpy(-tangents[1], tree.normalize(w, safe), tangents[0])
    change = jax.tree.map(lambda x: jnp.where(none, 0, x), tree.normalize(change, safe))
    return _unit(w, length, least), change


@jax.custom_jvp
def tridiagonal_pairs(alphas: jax.Array, betas: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenpairs of the tridiagonal matrix.

    The derivative is that of each pair where its value is alone. Of values that are equal up to rounding, copies of one
    eigenvalue or rows beyond an exhausted space, the derivative is such that Σ f(θᵢ) (e₁ᵀ sᵢ)² has its own, for each f
    and whatever basis of the eigenspace the vectors are.

    Args:
        alphas: (m,), diagonal.
        betas: (m,), off-diagonal; the last one is not used.

    Returns:
        Values (m,), ascending, and vectors (m, m) in columns. NaN in gives NaN out.
    """
    matrix = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    poison = jnp.where(jnp.all(jnp.isfinite(alphas) & jnp.isfinite(betas)), 0, jnp.nan)
    return values + poison, vectors + poison


@tridiagonal_pairs.defjvp
def _tridiagonal_pairs_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    values, vectors = tridiagonal_pairs(*primals)
    d_alphas, d_betas = tangents
    coupled = matmul(vectors[:-1].T, d_betas[:-1, None] * vectors[1:])
    change = matmul(vectors.T, d_alphas[:, None] * vectors) + coupled + coupled.T  # Sᵀ dT S
    near = 32 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    group = jnp.cumsum(jnp.diff(values, prepend=values[:1]) > near)
    same = group[None] == group[:, None]
    # of a group e₁ sees the vector Σ sᵢ (e₁ᵀ sᵢ) alone: its Rayleigh quotient is the change of all values of the group
    seen = jnp.where(same, vectors[:1], 0)
    greatest = jnp.max(jnp.abs(seen), axis=1, keepdims=True)
    alone = jnp.eye(len(values), dtype=values.dtype)
    seen = jnp.where(greatest == 0, alone, seen / jnp.where(greatest == 0, 1, greatest))
    d_values = jnp.sum(matmul(seen, change) * seen, axis=1) / jnp.sum(seen**2, axis=1)
    # and its vectors do not turn into each other
    turns = jnp.where(same, 0, change / jnp.where(same, 1, values[None] - values[:, None]))
    return (values, vectors), (d_values, matmul(vectors, turns))
