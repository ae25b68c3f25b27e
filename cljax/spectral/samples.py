"""Estimators that are the mean of one number for each probe; memory a few vectors, however many probes."""

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.spectral.estimate import mean_and_error
from cljax.spectral.rounds import probe_like, sum_terms


@pytree_dataclass
class SampleState:
    """A run between two probes.

    Attributes:
        vector: the probe to multiply next, entries ±1.
        key: typed PRNG key of the probes.
        samples: (capacity,), ``count`` of them set.
        count: int32 scalar, probes done.
        rounding: scalar, to which a sample is known: of a sum whose terms cancel, that of the terms.
    """

    vector: PyTree
    key: jax.Array
    samples: jax.Array
    count: jax.Array
    rounding: jax.Array


def sample_start(vector: PyTree, key: jax.Array, capacity: int) -> SampleState:
    """State before the first probe.

    Args:
        vector: probe 0.
        key: typed PRNG key, which the run may consume.
        capacity: most probes.

    Returns:
        The state.
    """
    dtype = jnp.result_type(*jax.tree.leaves(vector))
    return SampleState(vector, key, jnp.zeros(capacity, dtype), jnp.zeros((), jnp.int32), jnp.zeros((), dtype))


def take_quadratic_form(state: SampleState, product: PyTree) -> SampleState:
    """Take ⟨z, A z⟩ of the probe z."""
    sizes = (jax.tree.map(jnp.abs, vector) for vector in (state.vector, product))
    rounding = jnp.finfo(state.rounding.dtype).eps * tree.vdot(*sizes).astype(state.rounding.dtype)
    return _take(state, tree.vdot(state.vector, product), rounding)


def take_norm(state: SampleState, product: PyTree) -> SampleState:
    """Take ‖A z‖ of the probe z: not its square, which may leave the range."""
    return _take(state, tree.norm(product), jnp.zeros_like(state.rounding))


def _take(state: SampleState, sample: jax.Array, rounding: jax.Array) -> SampleState:
    count = state.count + 1
    samples = state.samples.at[state.count].set(sample.astype(state.samples.dtype))
    vector = probe_like(state.key, count, state.vector, "rademacher")
    return SampleState(vector, state.key, samples, count, jnp.maximum(state.rounding, rounding))


def sample_mean(state: SampleState) -> tuple[jax.Array, jax.Array]:
    """Mean of the samples and its standard error, not below their rounding."""
    mean, error = mean_and_error(state.samples, state.count)
    return mean, jnp.where(jnp.isnan(error), error, jnp.maximum(error, state.rounding))


def quadratic_form_functional(product: Matvec, like: PyTree, state: SampleState) -> jax.Array:
    """The mean of the quadratic forms as a ``held_fixed.Functional``: one product for each probe."""

    def term(i: jax.Array) -> jax.Array:
        probe = probe_like(state.key, i, like, "rademacher")
        return tree.vdot(probe, product(probe))

    return sum_terms(term, state.count, state.samples.shape[0], jnp.zeros((), state.samples.dtype)) / state.count
