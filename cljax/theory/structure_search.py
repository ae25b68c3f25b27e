"""Extreme eigenvalues of structure matrices from products with them, for many scores."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.curvature.base import highest_precision
from cljax.curvature.example_jacobian import ExampleJacobian, read_apply
from cljax.curvature.examples import center, map_examples

_STEPS_BETWEEN = 16
"""Steps of a run between two looks at its Ritz values."""


@partial(jax.jit, static_argnames=("centered", "chunk_size", "max_products"))
@highest_precision
def search_extremes(
    apply_fn: Any,
    params: PyTree,
    inputs: PyTree,
    key: jax.Array,
    tol: float,
    *,
    centered: bool,
    chunk_size: int | None,
    max_products: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The least and the greatest eigenvalue of A_x, by a Lanczos run of each example, side by side.

    Args:
        apply_fn: callable pytree, ``apply_fn(params, inputs) -> scores`` of shape (batch, K).
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...).
        key: typed PRNG key, of the start vector that all examples share.
        tol: relative residual that counts as converged.
        centered: whether to take the complement of ones alone.
        chunk_size: examples worked on at a time; None for as many as fit in 256 MiB.
        max_products: most products of an example.

    Returns:
        For each example the two values, their residual norms, whether they converged, and the products used: arrays
        (batch, 2) three times, and (batch,).
    """
    model = read_apply(apply_fn, params, inputs)
    num = model.scores.shape[0] - centered
    work = tree.work_dtype(model.scores.dtype)
    product = _centered_product if centered else _product
    start = jax.random.normal(key, (num,), work)

    def one(example: PyTree) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        jacobian = model.jacobian(params, example)[1]
        return _extreme_values(lambda v: product(v, jacobian), start, max_products, tol)

    basis_bytes = 4 * work.itemsize * num * min(num, max_products)
    return map_examples(one, inputs, chunk_size, model.num_bytes(2) + basis_bytes)


def _extreme_values(
    product: Callable[[jax.Array], jax.Array], start: jax.Array, max_products: int, tol: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Lanczos with two Gram-Schmidt passes; Ritz values are looked at every few steps, residuals taken at the end.

    A run goes on to a residual of 1e-6 |θ| or of rounding, as in ``spectral.extreme_eigenpairs``: one that is just
    below the tolerance may belong to an eigenvalue that is not the extreme one.

    Returns:
        The least and the greatest value, their residual norms, whether they converged, and the products used.
    """
    num, dtype = start.shape[0], start.dtype
    num_steps = min(num, max_products - 2)
    eps = jnp.finfo(dtype).eps
    enough = jnp.minimum(tol, jnp.maximum(1e-6, 32 * eps))
    state = _State(
        basis=jnp.zeros((num_steps + 1, num), dtype).at[0].set(start / jnp.linalg.norm(start)),
        alphas=jnp.zeros(num_steps, dtype),
        betas=jnp.zeros(num_steps, dtype),
        step=jnp.zeros((), jnp.int32),
        exhausted=jnp.zeros((), bool),
        done=jnp.zeros((), bool),
    )

    def advance(_: Any, state: _State) -> _State:
        open_ = (state.step < num_steps) & ~state.exhausted
        index = jnp.minimum(state.step, num_steps - 1)
        v = state.basis[index]
        w = product(v)
        alpha = jnp.vdot(v, w)
        for _ in range(2):
            w = w - jnp.matmul(state.basis.T, jnp.matmul(state.basis, w))
        beta = jnp.linalg.norm(w)
        # what is left is rounding: the space of the start vector is exhausted; NaN ends a run likewise
        goes_on = beta > 8 * eps * num**0.5 * jnp.maximum(jnp.max(jnp.abs(state.alphas)), jnp.abs(alpha))
        after = _State(
            basis=state.basis.at[index + 1].set(jnp.where(goes_on, w / beta, 0)),
            alphas=state.alphas.at[index].set(alpha),
            betas=state.betas.at[index].set(jnp.where(goes_on, beta, 0)),
            step=state.step + 1,
            exhausted=~goes_on,
            done=state.done,
        )
        return jax.tree.map(lambda new, old: jnp.where(open_, new, old), after, state)

    def body(state: _State) -> _State:
        state = jax.lax.fori_loop(0, _STEPS_BETWEEN, advance, state)
        values, _, estimates = _ritz(state)
        small = jnp.all(estimates <= jnp.maximum(enough * jnp.abs(values), 32 * eps * jnp.abs(values[1])))
        return dataclasses.replace(state, done=small | state.exhausted | (state.step >= num_steps))

    state = jax.lax.while_loop(lambda state: ~state.done, body, state)
    _, combinations, estimates = _ritz(state)
    vectors = jnp.matmul(combinations, state.basis[:num_steps])
    products = jnp.stack([product(v) for v in vectors])
    values = jnp.sum(vectors * products, axis=1)
    residuals = jnp.linalg.norm(products - values[:, None] * vectors, axis=1)
    rounding = 32 * eps * jnp.max(jnp.abs(values))
    carried_on = state.exhausted | (estimates <= jnp.maximum(enough * jnp.abs(values), rounding))
    converged = carried_on & (residuals <= jnp.maximum(tol * jnp.abs(values), rounding))
    return values, residuals, converged, state.step + 2


@pytree_dataclass
class _State:
    """A Lanczos run after ``step`` products; rows of ``basis`` from ``step + 1`` on are 0."""

    basis: jax.Array
    alphas: jax.Array
    betas: jax.Array
    step: jax.Array
    exhausted: jax.Array
    done: jax.Array


def _ritz(state: _State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Least and greatest Ritz value, their combinations of the basis, and the residuals that Lanczos predicts."""
    used = jnp.arange(state.alphas.shape[0]) < state.step
    # unused places get a value above all others, and so the last places among the sorted ones
    above = 1 + 2 * jnp.max(jnp.abs(state.alphas)) + 4 * jnp.max(state.betas)
    diagonal = jnp.where(used, state.alphas, above)
    beside = jnp.where(used[1:], state.betas[:-1], 0)
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    ends = jnp.stack([jnp.zeros_like(state.step), state.step - 1])
    last = vectors[state.step - 1][ends]
    return values[ends], jnp.where(used, vectors.T[ends], 0), jnp.abs(state.betas[state.step - 1] * last)


def _product(v: jax.Array, jacobian: ExampleJacobian) -> jax.Array:
    return jacobian.multiply(v[None])[0]


def _centered_product(v: jax.Array, jacobian: ExampleJacobian) -> jax.Array:
    whole = jax.ShapeDtypeStruct((v.shape[0] + 1,), v.dtype)
    return center(_product(jax.linear_transpose(center, whole)(v)[0], jacobian))
