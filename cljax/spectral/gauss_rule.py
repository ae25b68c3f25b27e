"""Gauss rule of a Lanczos run, and how far from its nodes the eigenvalues that they stand for may lie."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cljax._quick import quick_jit
from cljax.spectral.three_term import tridiagonal_pairs


class Rule(NamedTuple):
    """A Gauss rule, or several, one in each row.

    Attributes:
        nodes: (..., m), ascending.
        weights: (..., m), not negative, of sum 1.
        residuals: (..., m), of the Ritz pairs: so near to each node there is an eigenvalue.
    """

    nodes: jax.Array
    weights: jax.Array
    residuals: jax.Array


@quick_jit
def tridiagonal_rule(alphas: jax.Array, betas: jax.Array) -> Rule:
    """The rule of a tridiagonal matrix.

    Args:
        alphas: (m,), diagonal.
        betas: (m,), off-diagonal; the last one is the norm of what a run of m steps leaves.

    Returns:
        The rule, NaN where a coefficient is.
    """
    return rule_of_pairs(*tridiagonal_pairs(alphas, betas), betas[-1])


def rule_of_pairs(values: jax.Array, vectors: jax.Array, left: jax.Array) -> Rule:
    """The rule of a tridiagonal matrix whose eigenpairs are at hand.

    Args:
        values: (m,), ascending.
        vectors: (m, m), in columns.
        left: norm of what a run of m steps leaves.

    Returns:
        The rule.
    """
    return Rule(values, vectors[0] ** 2, jnp.abs(left * vectors[-1]))


@quick_jit
def reaches(rule: Rule) -> jax.Array:
    """How far below and above each node its weight is to be spread.

    By the Chebyshev-Markov-Stieltjes inequalities the measure has below a node all weight of the nodes before it, and
    up to all of its own. Where nothing else is known, half of a node's weight lies on each side of it, no farther than
    where that of its neighbour begins: they share the gap in inverse proportion to their weights, so that a great
    weight stays near its node where the measure falls steeply. Nor does it reach farther than the residual, within
    which there is an eigenvalue: a node that has converged keeps its weight in one point. Nothing reaches out of the
    nodes' range. These shares, and that the weight is spread evenly, are assumptions of ours.

    Args:
        rule: (num_probes, m).

    Returns:
        (num_probes, m, 2), distances below and above, in the operator's units.

    References:
        Szegő, Orthogonal Polynomials, section 3.41.
    """
    nodes, weights, residuals = rule
    scale = jnp.max(jnp.abs(nodes), axis=1, keepdims=True)
    reach = jnp.where(residuals > 32 * jnp.finfo(nodes.dtype).eps * scale, residuals, 0 * residuals)
    gaps, pairs = jnp.diff(nodes, axis=1), weights[:, 1:] + weights[:, :-1]
    per_weight = gaps / jnp.where(pairs > 0, pairs, 1)
    above = jnp.pad(per_weight * weights[:, 1:], [(0, 0), (0, 1)])
    below = jnp.pad(per_weight * weights[:, :-1], [(0, 0), (1, 0)])
    return jnp.stack([jnp.minimum(below, reach), jnp.minimum(above, reach)], axis=-1)
