"""A tracked set that grows and shrinks with the number of eigenvalues above a threshold, in a state of fixed shapes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cljax._typing import PyTree
from cljax.spectral.eigenpairs import Eigenpairs, Status


def take_tracked(pairs: Eigenpairs, num_top: int, num_bottom: int) -> Eigenpairs:
    """The bottom pairs and the greatest ``num_top`` of a set with places for more.

    Args:
        pairs: bottom ones first, then top ones ascending, those not tracked zero.
        num_top: how many of the top ones.
        num_bottom: how many bottom ones there are.

    Returns:
        num_bottom + num_top pairs.
    """

    def part(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[:num_bottom], x[x.shape[0] - num_top :]])

    return _mapped(pairs, part)


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

    def full(x: jax.Array) -> jax.Array:
        gap = jnp.zeros((places - num_top, *x.shape[1:]), x.dtype)
        return jnp.concatenate([x[:num_bottom], gap, x[num_bottom:]])

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
