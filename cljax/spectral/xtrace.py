"""XTrace: every probe deflates all others and is deflated by all others.

The i-th estimate is the trace of A on the range of the other m − 1 columns of A Ω, plus a one-sample estimate of the
trace on the complement from probe i. Written for symmetric A the whole run keeps one basis: Qᵀ A Ω is R, and Qᵀ A Q is
a small matrix filled row by row.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.spectral.estimate import mean_and_error
from cljax.spectral.range_basis import LeaveOneOut, RangeState, leave_one_out, range_start
from cljax.spectral.rounds import probe_like, sum_terms

_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class XTraceState(RangeState):
    """A run between two products, of a probe and of the basis vector that follows from it.

    Attributes:
        H: (m, m), Qᵀ A Q.
    """

    H: jax.Array


def xtrace_start(vector: PyTree, key: jax.Array, capacity: int, flatten: bool) -> XTraceState:
    """State before the first probe, see ``range_start``."""
    start = range_start(vector, key, capacity, flatten)
    return XTraceState(**vars(start), H=jnp.zeros_like(start.R))


def compress(state: XTraceState, product: PyTree) -> XTraceState:
    """Take A q of the newest basis vector; the next probe follows."""
    row = tree.basis_dot(state.basis, product)
    H = state.H.at[:, state.count].set(row).at[state.count].set(row)
    count = state.count + 1
    return dataclasses.replace(state, vector=probe_like(state.key, count, state.vector, "normal"), H=H, count=count)


def xtrace_mean(state: XTraceState) -> tuple[jax.Array, jax.Array]:
    """The mean of the m estimates and its standard error: that of independent ones, widened by √2 / √(1 − m/n).

    Given the other probes each estimate is unbiased, so a part of it that depends on p probes at once appears in the
    estimates of all p of them: in the variance of the mean it counts p times what independence suggests. The factor
    √2 is exact where pairs matter most. Measured ratios of variances, over flat, polynomial and exponential spectra
    with m far below n, are 1.0 to 2.3. With m near n the estimates share most of what they leave out; for the flat
    spectrum the second factor is what was measured (1.2, 1.8, 2.6, 4.3 at m/n of 0.5, 0.7, 0.85, 0.95), others need
    less.

    Args:
        state: after at least one probe.

    Returns:
        Scalars.
    """
    one_out = leave_one_out(state, "normal")
    W, S, sigma = one_out.W, one_out.S, one_out.sigma
    missed = jnp.matmul(W, state.H, precision=_HIGHEST) - state.R.T  # rows: −Qᵀ A (I − Q Qᵀ) ωᵢ
    within = jnp.sum(S * jnp.matmul(S, state.H, precision=_HIGHEST), axis=1)
    outside = jnp.sum(W * missed, axis=1) - 2 * sigma * jnp.sum(S * missed, axis=1) + sigma**2 * within
    mean, error = mean_and_error(jnp.trace(state.H) - within + _scale(state, one_out) * outside, state.count)
    size = tree.size(state.vector)
    share = jnp.maximum(1 - one_out.rank.astype(error.dtype) / size, 1 / size)
    # traces of parts that cancel are known to the rounding of the parts
    rounding = jnp.finfo(error.dtype).eps * jnp.sum(jnp.abs(jnp.diag(state.H)))
    rounding = jnp.maximum(rounding, jnp.where(one_out.rank >= size, _noise(missed, W), 0))
    return mean, jnp.maximum(jnp.sqrt(2 / share) * error, jnp.where(state.count > 1, rounding, jnp.nan))


def _noise(missed: jax.Array, W: jax.Array) -> jax.Array:
    """Error of the trace from that of the products, where Q spans the whole space: then ``missed`` is nothing else."""
    # products may be rounded more coarsely than their dtype, as those of a model that computes in bfloat16 are. With an
    # error of δ in each of the n entries of A q, ‖missed‖² is n δ² ‖W‖², and the trace, n entries, is off by √n δ
    greatest = jnp.max(jnp.abs(missed))
    unit = jnp.where(greatest > 0, greatest, 1)
    weight = jnp.linalg.norm(W)
    return jnp.where(weight > 0, unit * (jnp.linalg.norm(missed / unit) / jnp.where(weight > 0, weight, 1)), 0)


def _scale(state: RangeState, one_out: LeaveOneOut) -> jax.Array:
    """(m,), dimension of the complement over ‖(I − Pᵢ) ωᵢ‖²; 0 where a probe has nothing there but rounding."""
    left_out = jnp.any(one_out.S != 0, axis=1)
    complement = (tree.size(state.vector) - one_out.rank + left_out).astype(state.R.dtype)
    length = one_out.outside + one_out.sigma**2
    # the length is chi-squared, of mean the complement. Where a column depends on those before it, what A has outside
    # may be rounding: divided by a length by chance near 0, as of a complement of few dimensions, it would be no more
    usual = (one_out.rank >= state.count) | (length >= 0.05 * complement)
    more = (complement > 0) & (length != 0) & usual
    return jnp.where(more, complement / jnp.where(length == 0, 1, length), 0)


def xtrace_functional(product: Matvec, like: PyTree, state: RangeState) -> jax.Array:
    """The mean as a ``held_fixed.Functional``: one pass of 2 m products."""
    one_out = leave_one_out(state, "normal")
    share = _scale(state, one_out) / state.count
    core, inner = one_out.core(state.count), one_out.inner

    def term(i: jax.Array) -> jax.Array:
        q = tree.basis_combine(state.basis, jax.nn.one_hot(i, state.R.shape[0], dtype=state.R.dtype), like)
        outside = tree.sub(probe_like(state.key, i, like, "normal"), tree.basis_combine(state.basis, inner[i], like))
        inside = tree.vdot(tree.basis_combine(state.basis, core[i], like), product(q))
        return inside + share[i].astype(state.R.dtype) * tree.vdot(outside, product(outside))

    return sum_terms(term, state.count, state.R.shape[0], jnp.zeros((), state.R.dtype))
