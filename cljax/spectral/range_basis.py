"""The range of an operator, found probe by probe, and the projections onto it that leave one probe out.

With probes Ω (n × m) and A Ω = Q R, an exchangeable estimator treats A exactly on the range of all columns of A Ω but
the i-th, and by one sample from probe i elsewhere: the sample is independent of that range. Only Q is kept; probes are
drawn again from their keys when their projections Qᵀ ω are needed.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.rounds import probe_like


@pytree_dataclass
class RangeState:
    """A run between two products.

    Attributes:
        vector: what to multiply next: a probe, or the newest vector of the basis.
        basis: Q, m places of which ``count`` are set; 0 in place of a column that depends on those before it.
        key: typed PRNG key of the probes.
        R: (m, m), upper triangular, Qᵀ A Ω.
        count: int32 scalar, probes done.
    """

    vector: PyTree
    basis: PyTree
    key: jax.Array
    R: jax.Array
    count: jax.Array


LARGEST_BASIS = 2**30
"""Bytes of bases that an estimator may take by itself, over all devices."""

LEAST_PROBES = 4
"""Before a standard error says anything: two estimates that each leave out the other's probe may be the same number."""

_HIGHEST = jax.lax.Precision.HIGHEST
State = TypeVar("State", bound=RangeState)


def basis_bytes(op: LinearOperator, num_vectors: int) -> int:
    """Bytes, over all devices, of so many vectors of the operator's space, at most as many as span it.

    Args:
        op: an operator.
        num_vectors: how many.

    Returns:
        The number of bytes.
    """
    dimension = tree.size(op.struct)
    itemsize = max(tree.work_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(op.struct))
    return min(num_vectors, max(dimension, 2)) * dimension * itemsize


def range_start(vector: PyTree, key: jax.Array, capacity: int, flatten: bool) -> RangeState:
    """State before the first probe.

    Args:
        vector: probe 0.
        key: typed PRNG key, which the run may consume.
        capacity: m, most probes, at most n unless n is 1.
        flatten: layout of the basis, see ``cljax.tree``.

    Returns:
        The state.
    """
    R = jnp.zeros((capacity, capacity), jnp.result_type(*jax.tree.leaves(vector)))
    return RangeState(vector, tree.basis_zeros(vector, capacity, flatten), key, R, jnp.zeros((), jnp.int32))


def extend_basis(state: State, product: PyTree) -> State:
    """Take y = A ω: its part orthogonal to the basis, by Gram-Schmidt twice, is the next basis vector."""
    coefficients, w = jnp.zeros(state.R.shape[0], state.R.dtype), product
    for _ in range(2):
        found = tree.basis_dot(state.basis, w)
        w = tree.sub(w, tree.basis_combine(state.basis, found, w))
        coefficients += found
    length = tree.norm(product)
    left = tree.norm(w)
    dependent = left <= 8 * jnp.finfo(state.R.dtype).eps * length
    left = jnp.where(dependent, 0, left)
    vector = jax.tree.map(lambda x: jnp.where(dependent, 0, x / left).astype(x.dtype), w)
    left = jnp.where(jnp.isfinite(length) & (left <= tree.invertible(left)), left, jnp.nan)  # else the vector may be 0
    basis = tree.basis_set(state.basis, state.count, vector)
    R = state.R.at[:, state.count].set(coefficients.at[state.count].add(left))
    return dataclasses.replace(state, vector=vector, basis=basis, R=R)


@pytree_dataclass
class LeaveOneOut:
    """The m projections that leave one probe out, in terms of the basis: Pᵢ = Q (I − sᵢ sᵢᵀ) Qᵀ.

    Attributes:
        W: (m, m), rows wᵢ = Qᵀ ωᵢ.
        S: (m, m), rows sᵢ, unit vectors orthogonal to all columns of R but the i-th; 0 where there is none.
        sigma: (m,), sᵢ · wᵢ.
        outside: (m,), ‖(I − Q Qᵀ) ωᵢ‖².
        rank: int scalar, vectors in the basis that are not 0.
    """

    W: jax.Array
    S: jax.Array
    sigma: jax.Array
    outside: jax.Array
    rank: jax.Array

    @property
    def inner(self) -> jax.Array:
        """(m, m), rows Qᵀ Pᵢ ωᵢ = wᵢ − σᵢ sᵢ."""
        return self.W - self.sigma[:, None] * self.S

    def core(self, count: jax.Array) -> jax.Array:
        """(m, m), the mean of the projections is Q times this times Qᵀ."""
        share = self.S / jnp.sqrt(count.astype(self.S.dtype))
        return jnp.eye(share.shape[0], dtype=share.dtype) - jnp.matmul(share.T, share, precision=_HIGHEST)


def leave_one_out(state: RangeState, distribution: str) -> LeaveOneOut:
    """The projections of a run, each probe drawn once more.

    Args:
        state: after at least one probe.
        distribution: of the probes.

    Returns:
        The projections.
    """
    capacity, dtype = state.R.shape[0], state.R.dtype

    def project(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        probe = probe_like(state.key, i, state.vector, distribution)
        w = tree.basis_dot(state.basis, probe)
        outside = tree.norm(tree.sub(probe, tree.basis_combine(state.basis, w, probe)))
        return carry[0].at[i].set(w), carry[1].at[i].set((outside**2).astype(dtype))

    zeros = jnp.zeros((capacity, capacity), dtype), jnp.zeros(capacity, dtype)
    W, outside = jax.lax.fori_loop(0, state.count, project, zeros)
    independent = jnp.diag(state.R) > 0
    rank = jnp.sum(independent)
    greatest = tree.invertible(jnp.max(jnp.abs(state.R)))
    triangle = state.R / jnp.where(greatest > 0, greatest, 1) + jnp.diag(jnp.where(independent, 0, 1))
    # row i of R⁻¹ is orthogonal to all other columns of R. In the place of a column that depends on those before it, it
    # has what that column takes of column i: unless that is nothing, column i adds nothing to the others
    inverse = jax.scipy.linalg.solve_triangular(triangle, jnp.eye(capacity, dtype=dtype))
    taken = jnp.max(jnp.where(independent, 0, jnp.abs(inverse)), axis=1)
    adds = independent & (taken <= jnp.sqrt(jnp.finfo(dtype).eps))
    adds &= rank < tree.size(state.vector)  # once the basis is complete no probe needs to be left out
    S = jnp.where(adds[:, None], inverse / jnp.linalg.norm(inverse, axis=1, keepdims=True), 0)
    return LeaveOneOut(W, S, jnp.sum(S * W, axis=1), outside, rank)
