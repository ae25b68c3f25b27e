"""XDiag for symmetric operators: every probe deflates all others and is deflated by all others.

The i-th estimate is the diagonal of what the range of the other m − 1 columns of A Ω says of A, from the left and by
symmetry from the right, P A + A P − P A P, plus a one-sample estimate of the rest, (I − P) A (I − P), from probe i. As
published the rest is (I − P) A, whose entries are greater: by what A maps into the complement. Q and A Q are kept.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.spectral.estimate import RunningMean, running_start
from cljax.spectral.range_basis import RangeState, leave_one_out, range_start
from cljax.spectral.rounds import probe_like, sum_terms

_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class XDiagState(RangeState):
    """A run between two products, of a probe and of the basis vector that follows from it.

    Attributes:
        images: A Q, kept as Q is.
        H: (m, m), Qᵀ A Q.
    """

    images: PyTree
    H: jax.Array


def xdiag_start(vector: PyTree, key: jax.Array, capacity: int, flatten: bool) -> XDiagState:
    """State before the first probe, of random signs; see ``range_start``."""
    start = range_start(vector, key, capacity, flatten)
    images = tree.basis_zeros(vector, capacity, flatten)  # not the basis itself: a run gives its memory away
    return XDiagState(**vars(start), images=images, H=jnp.zeros_like(start.R))


def keep_image(state: XDiagState, product: PyTree) -> XDiagState:
    """Take A q of the newest basis vector; the next probe follows."""
    row = tree.basis_dot(state.basis, product)
    return dataclasses.replace(
        state,
        vector=probe_like(state.key, state.count + 1, state.vector, "rademacher"),
        images=tree.basis_set(state.images, state.count, product),
        H=state.H.at[:, state.count].set(row).at[state.count].set(row),
        count=state.count + 1,
    )


def xdiag_mean(state: XDiagState) -> tuple[PyTree, PyTree]:
    """The mean of the m estimates and its standard error, widened by √2 as for ``xtrace_mean``.

    Measured ratios of standard errors to what they estimate are 0.86 to 1.5 from 10 probes on, over flat, polynomial
    and exponential spectra and such with outliers, 0.7 to 0.9 with 3 to 6 probes.

    Args:
        state: after at least one probe.

    Returns:
        Vectors; the error of two estimates is NaN: where the spectrum is flat both are the same, right or wrong.
    """
    one_out, like = leave_one_out(state, "rademacher"), state.vector
    S, G = one_out.S, one_out.inner
    HS, HG = (jnp.matmul(x, state.H, precision=_HIGHEST) for x in (S, G))  # H is symmetric
    within, along = jnp.sum(S * HS, axis=1), jnp.sum(S * (state.R.T - HG), axis=1)
    unit = jnp.eye(S.shape[0], dtype=S.dtype)

    def add(i: jax.Array, carry: tuple[PyTree, RunningMean]) -> tuple[PyTree, RunningMean]:
        # in terms of E = (I − Q Qᵀ) A Q = A Q − Q H: what probe i leaves out is u (2 E s + (sᵀ H s) u)ᵀ with u = Q s,
        # its sample is ω ∘ (a u − E Qᵀ P ω), and all have the diagonal of (A Q + E) Qᵀ in common
        of_basis = jnp.stack([S[i], within[i] * S[i] - 2 * HS[i], along[i] * S[i] + HG[i], unit[i], -state.H[i]])
        u, left_out, sample, q, rest = _rows(tree.basis_combine(state.basis, of_basis, like), 5)
        of_images = jnp.stack([2 * S[i], -G[i], 2 * unit[i]])
        parts = _rows(tree.basis_combine(state.images, of_images, like), 3)
        left_out, sample, rest = map(tree.add, (left_out, sample, rest), parts)
        probe = probe_like(state.key, i, like, "rademacher")
        own = jax.tree.map(lambda w, y, u, p: w * y - u * p, probe, sample, u, left_out)
        return jax.tree.map(lambda x, q, r: x + q * r, carry[0], q, rest), carry[1].add(own)

    common, own = jax.lax.fori_loop(0, state.count, add, (tree.zeros_like(like), running_start(like)))
    mean = tree.add(common, own.mean)
    widened = tree.scale(math.sqrt(2), own.error())
    known = state.count > 2

    def floor(error: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(known, jnp.maximum(error, jnp.finfo(x.dtype).eps * jnp.abs(x)), jnp.nan)

    return mean, jax.tree.map(floor, widened, mean)


def _rows(vectors: PyTree, number: int) -> list[PyTree]:
    return [jax.tree.map(lambda x, k=k: x[k], vectors) for k in range(number)]


def xdiag_functional(product: Matvec, like: PyTree, state: XDiagState) -> PyTree:
    """The mean as a ``held_fixed.Functional``: 2 m products."""
    one_out, most = leave_one_out(state, "rademacher"), state.R.shape[0]
    S, inner, core = one_out.S, one_out.inner, one_out.core(state.count)
    share = 1 / state.count.astype(S.dtype)
    unit = jnp.eye(most, dtype=S.dtype)

    def combine(coefficients: jax.Array) -> PyTree:
        return tree.basis_combine(state.basis, coefficients, like)

    def sides(i: jax.Array) -> tuple[PyTree, jax.Array]:
        image = product(combine(unit[i]))
        both = jax.tree.map(lambda x, y: 2 * x * y, combine(core[i]), image)
        return both, jnp.outer(unit[i], tree.basis_dot(state.basis, image))

    vector = tree.zeros_like(like)
    both, H = sum_terms(sides, state.count, most, (vector, jnp.zeros_like(state.R)))
    HC = jnp.matmul(H, jnp.eye(most, dtype=S.dtype) - core, precision=_HIGHEST)
    within = jnp.sum(S * jnp.matmul(S, H, precision=_HIGHEST), axis=1)
    twice = H - HC - HC.T + jnp.matmul((share * within)[None] * S.T, S, precision=_HIGHEST)

    def rest(i: jax.Array) -> PyTree:
        probe = probe_like(state.key, i, like, "rademacher")
        image = product(tree.sub(probe, combine(inner[i])))
        found = tree.basis_dot(state.basis, image)
        outside = tree.sub(image, combine(found - jnp.sum(S[i] * found) * S[i]))
        counted = jax.tree.map(lambda q, x: q * x, combine(unit[i]), combine(twice[i]))
        return jax.tree.map(lambda w, y, x: share.astype(x.dtype) * w * y - x, probe, outside, counted)

    return tree.add(both, sum_terms(rest, state.count, most, vector))
