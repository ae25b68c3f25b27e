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
    diagonal, which repeats its first entry: nodes inside of the spectrum, of weight 0.

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
    beta = tree.norm(w)
    scale = jnp.max(jnp.abs(state.alphas)) + 2 * jnp.max(state.betas) + jnp.abs(alpha) + beta
    exhausted = dead | (beta <= 8 * jnp.finfo(beta.dtype).eps * scale)
    w = tree.normalize(w, beta)
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


def tridiagonal_pairs(alphas: jax.Array, betas: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenpairs of the tridiagonal matrix.

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
