"""Diagonals as the mean of z ∘ A z over vectors z of random signs; memory four vectors, however many probes."""

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.spectral.estimate import RunningMean, running_start
from cljax.spectral.rounds import probe_like, sum_terms


@pytree_dataclass
class DiagonalState:
    """A run between two probes.

    Attributes:
        vector: the probe to multiply next, entries ±1.
        key: typed PRNG key of the probes.
        entries: mean of z ∘ A z so far.
        capacity: most probes.
    """

    vector: PyTree
    key: jax.Array
    entries: RunningMean
    capacity: int = static()

    @property
    def count(self) -> jax.Array:
        """int32 scalar, probes done."""
        return self.entries.count


def diagonal_start(vector: PyTree, key: jax.Array, capacity: int) -> DiagonalState:
    """State before the first probe.

    Args:
        vector: probe 0.
        key: typed PRNG key, which the run may consume.
        capacity: most probes.

    Returns:
        The state.
    """
    return DiagonalState(vector, key, running_start(vector), capacity)


def take_entries(state: DiagonalState, product: PyTree) -> DiagonalState:
    """Take z ∘ A z of the probe z."""
    entries = state.entries.add(jax.tree.map(jnp.multiply, state.vector, product))
    vector = probe_like(state.key, entries.count, state.vector, "rademacher")
    return DiagonalState(vector, state.key, entries, state.capacity)


def entries_mean(state: DiagonalState) -> tuple[PyTree, PyTree]:
    """Mean of the samples and its standard error, entry by entry."""
    return state.entries.mean, state.entries.error()


def entries_functional(product: Matvec, like: PyTree, state: DiagonalState) -> PyTree:
    """The mean as a ``held_fixed.Functional``: one product for each probe."""

    def term(i: jax.Array) -> PyTree:
        probe = probe_like(state.key, i, like, "rademacher")
        return jax.tree.map(jnp.multiply, probe, product(probe))

    total = sum_terms(term, state.count, state.capacity, tree.zeros_like(like))
    return jax.tree.map(lambda x: x / state.count.astype(x.dtype), total)
