"""Answers that do not come from the library: dense float64 matrices, closed forms, differences; and tolerances."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def eps(dtype) -> float:
    return float(jnp.finfo(dtype).eps)


def tolerance(dtype, size: int, scale: float = 1.0) -> float:
    """Rounding error of sums over ``size`` terms of magnitude ``scale``, with a factor 8 for chained sums."""
    return 8 * eps(dtype) * np.sqrt(size) * max(scale, 1e-30)


def dense_hessian(objective_fn, params, *args) -> np.ndarray:
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda x: objective_fn(unravel(x), *args)))(flat))


def dense_jacobian(apply_fn, params, inputs) -> np.ndarray:
    """Shape (entries of the scores, parameters)."""
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.jacrev(lambda x: apply_fn(unravel(x), inputs).reshape(-1)))(flat))


def dense_gauss_newton(apply_fn, loss, params, batch) -> np.ndarray:
    """Σ (w/Σw) Jᵀ ∇²ℓ J, summed in NumPy over examples and tokens."""
    scores = jax.jit(lambda p: apply_fn(p, batch.inputs))(params)
    num_scores = scores.shape[-1]
    jacobian = dense_jacobian(apply_fn, params, batch.inputs).reshape(*scores.shape, -1)
    losses = loss(scores, batch.targets)
    weight = np.ones(losses.shape) if batch.weight is None else np.asarray(batch.weight)
    weight = np.broadcast_to(weight.reshape(weight.shape + (1,) * (losses.ndim - weight.ndim)), losses.shape)
    hessians = jax.jit(jax.hessian(lambda s: loss(s, batch.targets).sum()))(scores)
    total = np.zeros((jacobian.shape[-1],) * 2)
    for index in np.ndindex(*losses.shape):
        block = np.asarray(hessians[*index, slice(None), *index, slice(None)])
        assert block.shape == (num_scores, num_scores)
        rows = jacobian[index]
        total += weight[index] * rows.T @ block @ rows
    return total / weight.sum()


def central_difference(gradient_fn, params, v, epsilon: float) -> np.ndarray:
    """(∇(params + ε v) − ∇(params − ε v)) / 2ε, flat."""

    def at(shift):
        return ravel_pytree(gradient_fn(jax.tree.map(lambda p, d: p + shift * d, params, v)))[0]

    return np.asarray(at(epsilon) - at(-epsilon)) / (2 * epsilon)


def flat(tree) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])
