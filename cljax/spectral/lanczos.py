"""Lanczos tridiagonalization with full reorthogonalization."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_positive_int, check_same_struct
from cljax._in_flight import landed
from cljax._pytree import pytree_dataclass
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.differentiable import is_traced
from cljax.spectral.driver import choose_loop, run_lanczos
from cljax.spectral.krylov import KrylovState, orthogonality
from cljax.spectral.memory import Memory, run_layout
from cljax.spectral.probes import start_vectors


@pytree_dataclass
class LanczosResult:
    """A Q = Q T + β_m q_{m+1} e_mᵀ after m steps, T tridiagonal.

    Attributes:
        alphas: (m,), diagonal of T.
        betas: (m,), off-diagonal of T; the last one is the norm of what is left.
        basis: Q, a pytree with leaves (m, *shape), in float32 at least.
        num_products: int32 scalar, m.
        num_breakdowns: int32 scalar, how often the Krylov space was exhausted and a random vector went on; each leaves
            a β of 0.
        orthogonality: scalar, greatest entry of |Qᵀ Q − I|.
    """

    alphas: jax.Array
    betas: jax.Array
    basis: PyTree
    num_products: jax.Array
    num_breakdowns: jax.Array
    orthogonality: jax.Array


def lanczos(
    op: LinearOperator, key_or_vector: jax.Array | PyTree, num_steps: int, *, sharded: Any = False, driver: Any = "auto"
) -> LanczosResult:
    """Tridiagonalize a symmetric operator on a Krylov space; every vector orthogonalized against all others.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key_or_vector: a typed PRNG key for a random start, or a start vector of ``op.struct`` that is not zero.
        num_steps: static, 1 to n; memory num_steps + 1 vectors, for a moment up to twice that with the host driver.
        sharded: static; spread the basis over the devices of a mesh, see ``Memory``.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" or ``HostLoop`` (a loop of compiled
            steps; with progress and checkpoints), or "auto".

    Returns:
        The tridiagonal matrix, the basis and how orthogonal it is. NaN in the operator gives NaN.
        Differentiable in forward mode alone.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, ``num_steps`` is below 1 or above n, the start vector is
            zero, the driver cannot run here, no mesh is known to spread over, or a checkpoint file is broken or that of
            another run.
        TypeError: if dtypes do not match, or ``sharded`` is no mesh.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> result = spectral.lanczos(op, jnp.ones(2), 2)
        >>> result.alphas.round(3).tolist(), result.betas.round(3).tolist()
        ([2.0, 2.0], [1.0, 0.0])

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, algorithm 10.1.1; reorthogonalized as in Parlett, The
        Symmetric Eigenvalue Problem, section 6.9 ("twice is enough").
    """
    check_symmetric("op", op)
    num_steps = check_num_steps("num_steps", num_steps, tree.size(op.struct))
    memory = Memory(sharded=sharded)
    is_key = isinstance(key_or_vector, jax.Array) and jnp.issubdtype(key_or_vector.dtype, jax.dtypes.prng_key)
    if is_key:
        check_key("key_or_vector", key_or_vector)
        key, start_key = jax.random.split(key_or_vector)
        vector = jax.tree.map(lambda x: x[0], start_vectors(start_key, op.struct, 1, run_layout(op, memory)))
    else:
        check_same_struct("key_or_vector", key_or_vector, op.struct)
        key, vector = jax.random.key(0), key_or_vector
        if not is_traced(vector) and _norm(vector) == 0:
            raise ValueError("key_or_vector: expected a start vector that is not zero; pass a key for a random one")
    return tridiagonalize(op, vector, key, num_steps, memory, driver)


def tridiagonalize(
    op: LinearOperator, vector: PyTree, key: jax.Array, num_steps: int, memory: Memory, driver: Any
) -> LanczosResult:
    """As ``lanczos``, whose arguments have been checked; a start vector of zero is replaced by a random one.

    Args:
        op: symmetric operator.
        vector: start vector.
        key: typed PRNG key of random vectors.
        num_steps: static, products.
        memory: how the basis is kept, all of it.
        driver: as for ``lanczos``.

    Returns:
        The result.
    """
    state = run_lanczos(choose_loop(driver, op, vector, key), op, vector, key, num_steps, memory)
    # two programs: in one, sums over devices could meet the collectives that make the basis whole
    alphas, betas, basis = landed(_found(state, num_steps))
    error = _orthogonality(state.basis, num_steps)
    if memory.layout(op.struct) is None:
        basis = tree.place_like(basis, op.struct, leading_axes=1)
    return landed(LanczosResult(alphas, betas, basis, state.num_products, state.num_breakdowns, error))


_norm = quick_jit(tree.norm)
_orthogonality = quick_jit(orthogonality, static_argnames="num_vectors")


@quick_jit(static_argnames="num_steps")
def _found(state: KrylovState, num_steps: int) -> tuple[jax.Array, jax.Array, PyTree]:
    rows = jax.tree.map(lambda q, v: q[:num_steps].reshape(num_steps, *v.shape), state.basis, state.vector)
    return jnp.diagonal(state.matrix)[:num_steps], jnp.diagonal(state.matrix, -1)[:num_steps], tree.whole(rows)


def check_num_steps(name: str, num_steps: int, dimension: int) -> int:
    """Check a number of Krylov steps or pairs against the dimension of the operator.

    Args:
        name: the argument's name, for the message.
        num_steps: what the caller gave.
        dimension: n.

    Returns:
        The number as an int.

    Raises:
        ValueError: if it is below 1 or above n.
    """
    num_steps = check_positive_int(name, num_steps)
    if num_steps > dimension:
        raise ValueError(f"{name}: expected at most the dimension of the operator, {dimension}, got {num_steps}")
    return num_steps
