"""Diagonal of an operator by random probes, with a standard error for each entry.

matfree estimates diagonals of flat vectors that are whole on each device from a number of probes fixed beforehand. What
is written here keeps the structure and the sharding of the parameters, holds four vectors however many the probes, and
stops by itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._layout import Rows
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.driver import choose_driver
from cljax.spectral.estimate import Estimate, standard_error
from cljax.spectral.rounds import Scheme, check_arguments, first_probe, probe_like, run_rounds


@pytree_dataclass
class DiagonalState:
    """A run between two probes.

    Attributes:
        vector: the probe to multiply next, entries ±1.
        key: typed PRNG key of the probes.
        mean: pytree, mean of z ∘ A z so far.
        spread: pytree, Σ (z ∘ A z − mean)² in units of ``unit``².
        unit: scalar, greatest entry of the first product that is not 0; squares of tiny entries leave the range.
        count: int32 scalar, probes done.
    """

    vector: PyTree
    key: jax.Array
    mean: PyTree
    spread: PyTree
    unit: jax.Array
    count: jax.Array


def diagonal(
    op: LinearOperator,
    key: jax.Array,
    *,
    tol: float | None = None,
    max_products: int = 100,
    min_probes: int = 10,
    driver: Any = "auto",
) -> Estimate:
    """Diagonal of a symmetric operator, entry by entry the mean of z ∘ A z over vectors z of random signs.

    The error of an entry comes from the rest of its row: after N products the standard error of Aᵢᵢ is
    (Σ_{j≠i} Aᵢⱼ² / N)^½. A diagonal operator is exact from one probe. For a fixed number of probes it is unbiased.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        tol: None to use all products, or the ‖standard_error‖, relative to the ‖mean‖, at which to stop.
        max_products: static, most products, one for each probe; memory is four vectors and the product's own.
        min_probes: static, probes before the first look at the standard error, at least 2.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        Mean and standard error, pytrees like the operator's vectors in float32 at least, and whether the tolerance was
        met. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is out of range, or the driver cannot run here.
        TypeError: if ``key`` is no typed key or a number is no int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> spectral.diagonal(op, jax.random.key(0), max_products=2).mean.tolist()
        [1.0, 3.0]

    References:
        Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, Applied Numerical Mathematics 57 (2007),
        section 2, with probes of random signs.
    """
    max_products, min_probes = check_arguments(op, key, tol, max_products, min_probes)
    probe_key = jax.random.split(key, 1)[0]
    vector = first_probe(op, probe_key, "rademacher")
    mean, spread = (tree.zeros_like(vector) for _ in range(2))
    unit = jnp.zeros((), jnp.result_type(*jax.tree.leaves(vector)))
    start = DiagonalState(vector, probe_key, mean, spread, unit, jnp.zeros((), jnp.int32))
    found = run_rounds(choose_driver(driver, op, key), op, start, _DIAGONAL, tol, max_products, min_probes)[1]
    mean, error = _from_rows((found.mean, found.standard_error))
    return dataclasses.replace(found, mean=mean, standard_error=error)


@jax.jit
def _from_rows(vectors: PyTree) -> PyTree:
    return jax.tree.map(tree.from_rows, vectors, is_leaf=lambda x: isinstance(x, Rows))


def _take(state: DiagonalState, product: PyTree) -> DiagonalState:
    """Welford's update of mean and spread."""
    count = state.count + 1
    sample = jax.tree.map(jnp.multiply, state.vector, product)
    greatest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(sample)]))
    unit = jnp.where(state.unit == 0, greatest, state.unit).astype(state.unit.dtype)
    size = jnp.where(unit == 0, 1, unit)
    mean = jax.tree.map(lambda m, s: m + (s - m) / count.astype(m.dtype), state.mean, sample)
    spread = jax.tree.map(
        lambda q, s, old, new: (q + (s - old) / size * ((s - new) / size)).astype(q.dtype),
        state.spread,
        sample,
        state.mean,
        mean,
    )
    return DiagonalState(probe_like(state.key, count, state.vector, "rademacher"), state.key, mean, spread, unit, count)


def _entries(state: DiagonalState) -> tuple[PyTree, PyTree]:
    unit = jnp.where(state.unit == 0, 1, state.unit)

    def error(mean: jax.Array, spread: jax.Array) -> jax.Array:
        size = unit.astype(mean.dtype)
        return size * standard_error(mean / size, spread, state.count)

    return state.mean, jax.tree.map(error, state.mean, state.spread)


_DIAGONAL = Scheme((_take,), _entries)
