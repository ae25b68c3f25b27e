"""XNysTrace: traces of semidefinite operators, one product a probe.

With probes Ω, Y = A Ω and M = Ωᵀ A Ω, the Nyström approximation is K = Y M⁻¹ Yᵀ. The i-th estimate is the trace of the
approximation from all probes but the i-th, plus one sample of the trace of A − K from probe i. With M = L Lᵀ and tᵢ the
i-th column of L⁻¹, leaving probe i out takes the rank-one part of tᵢ out of K, and the sample is 1 / ‖tᵢ‖². As A is
symmetric, entries of M are products of a new probe with what is there, and of Y = Q R one basis is kept.

M is solved with a small multiple of I added to it. The estimate stays unbiased, whatever the multiple: that of A − K is
then 1 / ‖tᵢ‖² less the multiple. So it can follow what M shows: products may be rounded far more coarsely than their
dtype says, by a model that computes in bfloat16 inside, or by the cancellations of a confident softmax.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.spectral.estimate import mean_and_error
from cljax.spectral.range_basis import RangeState, extend_basis, range_start
from cljax.spectral.rounds import probe_like

_HIGHEST = jax.lax.Precision.HIGHEST
LARGEST_ROUNDING = 0.1
"""Most that an eigenvalue of M below 0 can be, in units of M's greatest entry, to be taken for rounding."""


@pytree_dataclass
class NystromState(RangeState):
    """A run between two probes.

    Attributes:
        M: (m, m), Ωᵀ A Ω.
        scale: (m,), n / ‖ωᵢ‖².
        rounding: scalar, relative rounding of a product.
    """

    M: jax.Array
    scale: jax.Array
    rounding: jax.Array


def nystrom_start(vector: PyTree, key: jax.Array, capacity: int, flatten: bool, rounding: float) -> NystromState:
    """State before the first probe.

    Args:
        vector: probe 0.
        key: typed PRNG key, which the run may consume.
        capacity: m, most probes.
        flatten: layout of the basis, see ``cljax.tree``.
        rounding: relative rounding of a product.

    Returns:
        The state.
    """
    start = range_start(vector, key, capacity, flatten)
    M, scale = jnp.zeros_like(start.R), jnp.zeros(capacity, start.R.dtype)
    return NystromState(**vars(start), M=M, scale=scale, rounding=jnp.asarray(rounding, M.dtype))


def take_product(state: NystromState, product: PyTree) -> NystromState:
    """Take y = A ω; the next probe follows."""
    probe, count = state.vector, state.count
    state = extend_basis(state, product)
    row = jnp.matmul(tree.basis_dot(state.basis, probe), state.R, precision=_HIGHEST)
    return dataclasses.replace(
        state,
        vector=probe_like(state.key, count + 1, probe, "normal"),
        M=state.M.at[:, count].set(row).at[count].set(row),
        scale=state.scale.at[count].set((tree.size(probe) / tree.vdot(probe, probe)).astype(row.dtype)),
        count=count + 1,
    )


def nystrom_mean(state: NystromState) -> tuple[jax.Array, jax.Array]:
    """The mean of the m estimates and its standard error, from two that bracket it.

    A part of the estimates that depends on p probes at once is in p of them: in the variance of the mean it counts p
    times what independence suggests, and 1/p times of what the jackknife says, the spread of the means that the run
    would have had without one probe. So the geometric mean of both variances is not below the variance, by the
    inequality of Cauchy and Schwarz, but for what one probe changes in it. Measured ratios, over flat, polynomial and
    exponential spectra, step functions and such with outliers, are 1.0 to 1.9.

    Args:
        state: after at least one probe.

    Returns:
        Scalars; NaN where M has an eigenvalue below −``LARGEST_ROUNDING``, and the operator one below 0. The error of
        two estimates is NaN: where the spectrum is flat both are the same number, right or wrong.
    """
    capacity, dtype = state.M.shape[0], state.M.dtype
    greatest = jnp.max(jnp.abs(state.M))
    unit = jnp.where(greatest == 0, 1, greatest)
    # in units of the greatest entry: roundings make a random matrix of norm √m eps; with 1 for 4 some M of rank 1 fail
    number = state.count.astype(dtype)
    used = jnp.arange(capacity) < state.count
    below = -jnp.linalg.eigvalsh(state.M / unit)[0]  # of places that are not used: 0
    added = 4 * jnp.maximum(jnp.sqrt(number) * (state.rounding + jnp.finfo(dtype).eps), below)
    added = jnp.where(below <= LARGEST_ROUNDING, added, jnp.nan)
    lower = jnp.linalg.cholesky(state.M / unit + jnp.diag(jnp.where(used, added, 1)))
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(capacity, dtype=dtype), lower=True)
    factor = jax.scipy.linalg.solve_triangular(lower, state.R.T / unit, lower=True).T
    whole, images = jnp.sum(factor**2), jnp.matmul(factor, inverse, precision=_HIGHEST)

    def estimates(inverse: jax.Array, images: jax.Array, known: jax.Array) -> jax.Array:
        lengths = jnp.sum(inverse**2, axis=0)
        lengths = jnp.where(lengths == 0, 1, lengths)
        return known - jnp.sum(images**2, axis=0) / lengths + state.scale * (1 / lengths - added)

    def mean_without(j: jax.Array) -> jax.Array:
        t = inverse[:, j] / jnp.linalg.norm(inverse[:, j])
        image, along = jnp.matmul(factor, t, precision=_HIGHEST), jnp.matmul(t, inverse, precision=_HIGHEST)
        rest = inverse - jnp.outer(t, along), images - jnp.outer(image, along)
        others = used & (jnp.arange(capacity) != j)
        return jnp.sum(jnp.where(others, estimates(*rest, whole - jnp.sum(image**2)), 0)) / (number - 1)

    mean, error = mean_and_error(estimates(inverse, images, whole), state.count)
    # √((m − 1)/m Σ (mean without one probe − their mean)²)
    jackknife = (number - 1) * mean_and_error(jax.lax.map(mean_without, jnp.arange(capacity)), state.count)[1]
    error = jnp.where(state.count > 2, jnp.sqrt(error * jackknife), jnp.nan)
    return greatest * mean, greatest * error
