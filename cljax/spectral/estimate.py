"""Means with their standard errors, from samples that may be tiny, huge or equal."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._quick import quick_jit
from cljax._typing import PyTree


@pytree_dataclass
class Estimate:
    """What a stochastic estimator returns.

    Attributes:
        mean: the estimate: a scalar or, of a diagonal, a pytree like the operator's vectors; float32 at least.
        standard_error: like ``mean``, not below its rounding, eps·|mean| or of a trace that cancels more; NaN where it
            cannot be known, from one probe, or from two that leave each other out.
        num_products: int32 scalar, products used.
        num_probes: int32 scalar, independent random vectors used.
        converged: bool scalar, whether there was a tolerance and ‖standard_error‖ ≤ tol·‖mean‖ after at least
            ``min_probes`` probes.
    """

    mean: PyTree
    standard_error: PyTree
    num_products: jax.Array
    num_probes: jax.Array
    converged: jax.Array


@quick_jit
def mean_and_error(samples: jax.Array, count: jax.Array | int | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean of the first samples and its standard error.

    Args:
        samples: (capacity, ...), independent, the first ``count`` of them set.
        count: how many; None for all.

    Returns:
        Both of shape (...); the error is NaN for one sample and not below eps·|mean|.
    """
    number = samples.shape[0] if count is None else count
    used = (jnp.arange(samples.shape[0]) < number).reshape(-1, *(1,) * (samples.ndim - 1))
    samples = jnp.where(used, samples, 0)
    greatest = jax.lax.stop_gradient(jnp.max(jnp.abs(samples), axis=0))
    # squares of tiny and huge samples leave the range
    unit = jnp.where(greatest == 0, 1, tree.invertible(greatest))
    scaled = samples / unit[None]
    mean = jnp.sum(scaled, axis=0) / jnp.asarray(number, samples.dtype)
    spread = jnp.sum(jnp.where(used, (scaled - mean[None]) ** 2, 0), axis=0)
    return unit * mean, unit * standard_error(mean, spread, number)


def standard_error(mean: jax.Array, spread: jax.Array, count: jax.Array | int) -> jax.Array:
    """Standard error of a mean, elementwise.

    Args:
        mean: of ``count`` samples.
        spread: Σ (sample − mean)².
        count: how many samples.

    Returns:
        √(spread / (count (count − 1))), not below eps·|mean|; NaN for one sample.
    """
    number = jnp.asarray(count, mean.dtype)
    return jnp.maximum(jnp.sqrt(spread / (number * (number - 1))), jnp.finfo(mean.dtype).eps * jnp.abs(mean))


@pytree_dataclass
class RunningMean:
    """Entry by entry the mean of vectors that come one after the other, and their spread.

    Attributes:
        mean: pytree, mean so far.
        spread: pytree, Σ (sample − mean)² in units of ``unit``².
        unit: scalar, greatest entry of the first sample that is not 0; squares of tiny entries leave the range.
        count: int32 scalar, samples so far.
    """

    mean: PyTree
    spread: PyTree
    unit: jax.Array
    count: jax.Array

    def add(self, sample: PyTree) -> "RunningMean":
        """Take one more sample, by Welford's update."""
        count = self.count + 1
        greatest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(sample)]))
        unit = jnp.where(self.unit == 0, tree.invertible(greatest), self.unit).astype(self.unit.dtype)
        size = jnp.where(unit == 0, 1, unit)
        mean = jax.tree.map(lambda m, s: m + (s - m) / count.astype(m.dtype), self.mean, sample)
        spread = jax.tree.map(
            lambda q, s, old, new: (q + (s - old) / size * ((s - new) / size)).astype(q.dtype),
            self.spread,
            sample,
            self.mean,
            mean,
        )
        return RunningMean(mean, spread, unit, count)

    def error(self) -> PyTree:
        """Standard error of the mean, see ``standard_error``."""
        unit = jnp.where(self.unit == 0, 1, self.unit)

        def entries(mean: jax.Array, spread: jax.Array) -> jax.Array:
            size = unit.astype(mean.dtype)
            return size * standard_error(mean / size, spread, self.count)

        return jax.tree.map(entries, self.mean, self.spread)


def running_start(like: PyTree) -> RunningMean:
    """Before the first sample.

    Args:
        like: pytree with the shapes, dtypes and shardings of a sample.

    Returns:
        No samples.
    """
    unit = jnp.zeros((), jnp.result_type(*jax.tree.leaves(like)))
    return RunningMean(tree.zeros_like(like), tree.zeros_like(like), unit, jnp.zeros((), jnp.int32))


def within(mean: PyTree, error: PyTree, tol: Any) -> jax.Array:
    """Whether ‖error‖ ≤ tol·‖mean‖; never of NaN."""
    return tree.norm(error) <= tol * tree.norm(mean)
