"""The pairs that a tracker carries on: signs as before, and as many as there are eigenvalues above a threshold."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree
from cljax.spectral.eigenpairs import Eigenpairs, Status
from cljax.training.record import Spectrum


@partial(jax.jit, static_argnames=("num_top", "num_bottom"))
def take_tracked(pairs: Eigenpairs, num_top: int, num_bottom: int) -> Eigenpairs:
    """The bottom pairs and the greatest ``num_top`` of a set with places for more.

    Args:
        pairs: bottom ones first, then top ones ascending, those not tracked zero.
        num_top: how many of the top ones.
        num_bottom: how many bottom ones there are.

    Returns:
        num_bottom + num_top pairs.
    """
    if pairs.values.shape[0] == num_bottom + num_top:
        return pairs

    def part(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[:num_bottom], x[x.shape[0] - num_top :]])

    return _mapped(pairs, part)


@partial(jax.jit, static_argnames=("num_top", "num_bottom", "places"))
def put_tracked(pairs: Eigenpairs, num_top: int, num_bottom: int, places: int) -> Eigenpairs:
    """The inverse of ``take_tracked``: zeros in the places of top pairs that are not tracked.

    Args:
        pairs: num_bottom + num_top pairs.
        num_top: how many are top ones.
        num_bottom: how many are bottom ones.
        places: for top ones.

    Returns:
        num_bottom + places pairs.
    """
    if places == num_top:
        return pairs

    def full(x: jax.Array) -> jax.Array:
        top = jnp.pad(x[num_bottom:], [(places - num_top, 0)] + [(0, 0)] * (x.ndim - 1))  # split as x is
        return jnp.concatenate([x[:num_bottom], top])

    padded = _mapped(pairs, full)
    tracked = full(jnp.ones(num_top + num_bottom, bool))
    return dataclasses.replace(padded, status=jnp.where(tracked, padded.status, jnp.int32(Status.BUDGET)))


def _mapped(pairs: Eigenpairs, fn: Any) -> Eigenpairs:
    vectors: PyTree = jax.tree.map(fn, pairs.vectors)
    names = ("values", "residual_norms", "value_errors", "status")
    return dataclasses.replace(pairs, vectors=vectors, **{name: fn(getattr(pairs, name)) for name in names})


def next_num_top(values: Any, threshold: float, num_top: int, least: int, most: int) -> int:
    """How many top eigenvalues to track next: twice as many where all are above, half where fewer than half are.

    Doubling and halving let a run pass through few sizes, each of which is compiled once.

    Args:
        values: the top eigenvalues tracked now.
        threshold: in their units.
        num_top: how many those are.
        least: never fewer.
        most: never more.

    Returns:
        A number from ``least`` to ``most``.
    """
    above = sum(float(value) > threshold for value in values)
    if above == num_top:
        return min(most, 2 * num_top)
    if 2 * above < num_top - 1:
        return max(least, (num_top + 1) // 2)
    return num_top


@partial(jax.jit, static_argnums=1)
def is_due(count: jax.Array, every: int) -> jax.Array:
    """Whether a measurement with ``count`` before it is one of those that come ``every`` so many."""
    return count % every == 0


@jax.jit
def start_unless(cold: jax.Array, start: Eigenpairs) -> Eigenpairs:
    """The pairs to start from, or zeros, from which a warm start is a cold one.

    Args:
        cold: scalar, whether to start cold.
        start: pairs of the measurement before.

    Returns:
        Pairs.
    """
    return jax.tree.map(lambda x: jnp.where(cold, jnp.zeros_like(x), x), start)


@jax.jit
def aligned(pairs: Eigenpairs, previous: Eigenpairs, cold: jax.Array) -> tuple[Eigenpairs, Spectrum]:
    """The pairs with the signs of the vectors before, and their figures.

    Args:
        pairs: new ones.
        previous: those before, as many.
        cold: scalar, whether the search started cold.

    Returns:
        The pairs, and what a record says of them.
    """
    products = jax.vmap(tree.vdot)(pairs.vectors, previous.vectors).astype(pairs.values.dtype)
    products = jnp.where(jnp.isfinite(products), products, 0)
    signs = jnp.where(products < 0, -1, 1)
    vectors = jax.tree.map(lambda v: signs.reshape((-1,) + (1,) * (v.ndim - 1)).astype(v.dtype) * v, pairs.vectors)
    spectrum = Spectrum(
        values=pairs.values,
        residual_norms=pairs.residual_norms,
        value_errors=pairs.value_errors,
        status=pairs.status,
        overlaps=jnp.abs(products),
        num_products=pairs.num_products,
        orthogonality=pairs.orthogonality,
        asymmetry=pairs.asymmetry,
        jumped=pairs.jumped,
        cold=cold,
    )
    return dataclasses.replace(pairs, vectors=vectors), spectrum
