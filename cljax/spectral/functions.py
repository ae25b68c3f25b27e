"""A function of an operator times a vector, by Lanczos.

matfree does this for flat vectors that are whole on each device. Here the basis keeps the structure and the sharding of
the parameters, and the result says by how much its last steps changed it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_same_struct
from cljax._in_flight import landed
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, check_symmetric
from cljax.spectral.lanczos import LanczosResult, check_num_steps, tridiagonalize
from cljax.spectral.memory import ALL


@pytree_dataclass
class FunctionProduct:
    """f(A) v after m Lanczos steps.

    Attributes:
        product: pytree like v.
        error_estimate: scalar, in units of ``product``: the distance to the result of a quarter fewer steps, not below
            rounding, eps·‖product‖. NaN after one step, where it cannot be known.
        num_products: int32 scalar, m.
    """

    product: PyTree
    error_estimate: jax.Array
    num_products: jax.Array


def apply_function(op: LinearOperator, fn: Any, v: PyTree, num_steps: int, *, driver: Any = "auto") -> FunctionProduct:
    """f(A) v = Σ f(λᵢ) ⟨uᵢ, v⟩ uᵢ of a symmetric operator, as ‖v‖ Q f(T) e₁ from the Lanczos matrices Q and T.

    Exact for polynomials of a degree below ``num_steps``; else the error is at most twice ‖v‖ times that of the best
    such polynomial on the interval of the spectrum. The error estimate compares with fewer steps: where f is smooth it
    is nearly the error of the shorter run, so more than that of the result, but it cannot see what no step has met yet,
    such as a singularity of f at an eigenvalue that is still unresolved.

    Args:
        op: symmetric operator on n-dimensional vectors.
        fn: f, elementwise from Ritz values (m,) to (m,), of JAX operations; hashable or a callable pytree. Outside of
            its domain it should give NaN, and the result is NaN then: Ritz values lie within the spectrum.
        v: pytree of ``op.struct``.
        num_steps: static, products, 1 to n; memory num_steps + 1 vectors, as of ``lanczos``.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        The product, an estimate of its error, and the products used. NaN in the operator or in ``v`` gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, ``v`` has other shapes than ``op.struct``, ``num_steps``
            is out of range, ``fn`` changes the shape, or the driver cannot run here.
        TypeError: if dtypes do not match, or ``fn`` is not callable or not hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([4.0, 9.0]))
        >>> spectral.apply_function(op, jnp.sqrt, jnp.ones(2), 2).product.round().tolist()
        [2.0, 3.0]

    References:
        Higham, Functions of Matrices (SIAM 2008), section 13.2.1; Musco, Musco and Sidford, Stability of the Lanczos
        method for matrix function approximation (SODA 2018), for the bound.
    """
    check_symmetric("op", op)
    num_steps = check_num_steps("num_steps", num_steps, tree.size(op.struct))
    check_same_struct("v", v, op.struct)
    result = tridiagonalize(op, v, jax.random.key(0), num_steps, ALL, driver)
    product, error = _combine(result, as_callable_tree("fn", fn), v)
    return landed(FunctionProduct(tree.place_like(product, op.struct), error, result.num_products))


@jax.jit
def _combine(result: LanczosResult, fn: Any, v: PyTree) -> tuple[PyTree, jax.Array]:
    length = tree.norm(v).astype(result.alphas.dtype)
    steps = result.alphas.shape[0]
    fewer = steps - max(steps // 4, 1)
    coefficients = _coefficients(result, fn, steps)
    change = coefficients - jnp.pad(_coefficients(result, fn, fewer), (0, steps - fewer)) if fewer else jnp.nan
    rounding = jnp.finfo(coefficients.dtype).eps * jnp.linalg.norm(coefficients)
    error = jnp.maximum(jnp.linalg.norm(change), rounding)
    like = tree.to_work(v)
    product = tree.scale(length, tree.basis_combine(result.basis, coefficients, like))
    # Lanczos cannot start at 0, where f(A) 0 = 0
    product = jax.tree.map(lambda x: jnp.where(length == 0, 0, x), product)
    return tree.cast_like(product, v), jnp.where(length == 0, 0, length * error)


def _coefficients(result: LanczosResult, fn: Any, steps: int) -> jax.Array:
    """f(T) e₁ of the leading ``steps`` × ``steps`` part of T."""
    betas = result.betas[: steps - 1]
    values, vectors = jnp.linalg.eigh(jnp.diag(result.alphas[:steps]) + jnp.diag(betas, 1) + jnp.diag(betas, -1))
    images = fn(values)
    if jnp.shape(images) != values.shape:
        raise ValueError(
            f"fn: expected an elementwise function, shape {values.shape}, got {jnp.shape(images)}; use jax.vmap"
        )
    return jnp.matmul(vectors, images.astype(values.dtype) * vectors[0], precision=jax.lax.Precision.HIGHEST)
