"""A first Lanczos run of a density: what it finds at both ends of the spectrum, and what it says of the rest.

An eigenvalue far out counts in a density by its distance, and the weight that a random probe gives it scatters by 1.4
of itself. Once its vector is known its weight is, 1/n, and further probes need only show what is left. The run that
found the vectors is itself a probe of what is left: its Gauss rule without the nodes of those pairs.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._in_flight import landed
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.differentiable import is_traced
from cljax.spectral.gauss_rule import Rule, rule_of_pairs
from cljax.spectral.host_loop import HostLoop
from cljax.spectral.lanczos import tridiagonalize
from cljax.spectral.memory import ALL
from cljax.spectral.rules import normal_probe
from cljax.spectral.three_term import tridiagonal_pairs

LEFT = 0.01
"""Most of a pair's weight that its residual may leave to the probes, where it would count twice."""


@dataclasses.dataclass(frozen=True)
class Known:
    """Pairs that probes shall leave out, and what else is known of what is left.

    Attributes:
        values: (k,), ascending.
        vectors: leaves (k, *shape), orthonormal, or 0 for a pair that does not count.
        counted: (k,) bool, the pairs that do.
        rule: None, or that of what is left, (m,).
    """

    values: jax.Array
    vectors: PyTree
    counted: jax.Array
    rule: Rule | None = None


def search(driver: Any, op: LinearOperator, keys: jax.Array, num_steps: int) -> Known:
    """Take up to a third of the Ritz pairs at each end of a Lanczos run as known, those that are accurate.

    Args:
        driver: "compiled" or a ``HostLoop``, whose file is that of the density; the run's own is beside it.
        op: symmetric operator.
        keys: (2,), of the start vector and of all else that is random.
        num_steps: static, products, below the dimension.

    Returns:
        The pairs; with the run's own rule, unless it is wrong beside them or it cannot be known whether it is.
    """
    if isinstance(driver, HostLoop) and driver.checkpoint is not None:
        path = pathlib.Path(driver.checkpoint)
        driver = dataclasses.replace(driver, checkpoint=path.with_name(f"{path.name}.search"))
    result = tridiagonalize(op, normal_probe(keys[0], op), keys[1], num_steps, ALL, driver)
    coefficients, values, accurate, rule, simple = _ends(result.alphas, result.betas, tree.size(op.struct))
    vectors = tree.place_like(landed(_combined(result.basis, coefficients)), op.struct, leading_axes=1)
    return Known(values, vectors, accurate, rule if not is_traced(simple) and bool(simple) else None)


@quick_jit
def beside(rules: Rule, own: Rule) -> Rule:
    """The rules of probes, (num_probes, m), and one more; the shorter ones get further nodes of weight 0."""
    most = max(rules.nodes.shape[1], own.nodes.shape[0])

    def join(x: jax.Array, own: jax.Array, mode: str) -> jax.Array:
        rows = (jnp.pad(y, [(0, 0), (0, most - y.shape[1])], mode=mode) for y in (x, own[None].astype(x.dtype)))
        return jnp.concatenate(list(rows))

    return Rule(*(join(*parts) for parts in zip(rules, own, ("edge", "constant", "constant"), strict=True)))


@quick_jit
def _combined(basis: PyTree, coefficients: jax.Array) -> PyTree:
    return tree.basis_combine(basis, coefficients, jax.tree.map(lambda q: q[0], basis))


@quick_jit(static_argnames="dimension")
def _ends(
    alphas: jax.Array, betas: jax.Array, dimension: int
) -> tuple[jax.Array, jax.Array, jax.Array, Rule, jax.Array]:
    """Coefficients, Ritz values and accuracy of pairs at both ends, the rule beside them, and whether that is right."""
    nodes, vectors = tridiagonal_pairs(alphas, betas)
    num = nodes.shape[0]
    each = min(max(num // 3, 1), num // 2)
    ends = np.concatenate([np.arange(each), np.arange(num - each, num)])
    gaps = jnp.diff(nodes, prepend=-jnp.inf, append=jnp.inf)
    gap = jnp.minimum(gaps[:-1], gaps[1:])
    _, weights, residuals = rule_of_pairs(nodes, vectors, betas[-1])
    accurate = jnp.zeros(num, bool).at[ends].set(True) & (residuals**2 <= LEFT * gap**2)
    rest = jnp.where(accurate, 0, weights)
    total = jnp.sum(rest)
    left = total > jnp.sqrt(jnp.finfo(total.dtype).eps)  # else the run has found all that its start has
    # of a multiple eigenvalue a run knows one vector and all of the weight: its rule would lack the other copies. Times
    # n, the weights of simple ones are chi-squared: of mean 1 and variance 2 each, 5e-4 of them above 12
    taken, count = float(dimension) * (weights - rest), jnp.sum(accurate)
    simple = (jnp.sum(taken) <= count + 3 * jnp.sqrt(2 * count) + 2) & (jnp.max(taken) <= 12)
    rule = Rule(nodes, rest / jnp.where(left, total, 1), residuals)
    return jnp.where(accurate, vectors, 0).T[ends], nodes[ends], accurate[ends], rule, simple & left
