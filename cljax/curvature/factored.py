"""J Jᵀ of kernels from inputs and back-propagated derivatives, without the gradients where that costs less."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cljax.curvature.program import Program, Use
from cljax.curvature.sites import Site, find_site

FORMS = ("outer", "patch gram", "kernel gradient")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A parameter leaf that is a kernel wherever it is used, in one arrangement.

    With X the inputs, of shape (B, I, P), and D_k the derivatives of score k in the results, (B, P, O), its share of
    J Jᵀ has the entries Σ_b <X D_k, X D_l> = Σ_b <D_k, Xᵀ X D_l>. The sides of this equation are two ways to it:

    - "kernel gradient" on the left, for kernels of few entries at many positions,
    - "patch gram" on the right, for kernels of many entries at few positions; "outer" where there is one position.

    Attributes:
        leaf: index of the leaf.
        sites: where it is used; their positions are taken together.
    """

    leaf: int
    sites: tuple[Site, ...]

    @property
    def num_positions(self) -> int:
        """P, positions of all sites."""
        return sum(site.num_positions for site in self.sites)

    def costs(self, num_rows: int) -> dict[str, float]:
        """FLOPs of each form, for ``num_rows`` derivatives of one example."""
        site, p = self.sites[0], self.num_positions
        b, i, o = site.num_groups, site.num_inputs, site.num_outputs
        gradient = 2.0 * num_rows * b * i * o * (p + num_rows)
        gram = 2.0 * b * p * (p * i + num_rows * o * (p + num_rows))
        return {"outer" if p == 1 else "patch gram": gram, "kernel gradient": gradient}

    def form(self, num_rows: int) -> str:
        """The cheapest form."""
        costs = self.costs(num_rows)
        return min(costs, key=costs.__getitem__)

    def num_values(self, num_rows: int) -> int:
        """Entries of what the cheapest form works with, derivatives included."""
        site, p = self.sites[0], self.num_positions
        i, o = site.num_inputs, site.num_outputs
        work = num_rows * i * o if self.form(num_rows) == "kernel gradient" else p * p + num_rows * p * o
        return site.num_groups * (p * (i + num_rows * o) + work)

    def gram(self, inputs: Sequence[jax.Array], deltas: Sequence[jax.Array]) -> jax.Array:
        """The kernel's share of J Jᵀ.

        Args:
            inputs: for each site (B, I, P).
            deltas: for each site m derivatives in its results, (m, B, P, O).

        Returns:
            Shape (m, m).
        """
        x, d = jnp.concatenate(inputs, axis=2), jnp.concatenate(deltas, axis=2)
        gram_fn = _gradient_gram if self.form(d.shape[0]) == "kernel gradient" else _patch_gram
        return _over_groups(gram_fn, x, d)

    def push(self, inputs: Sequence[jax.Array], deltas: Sequence[jax.Array]) -> list[jax.Array]:
        """Changes of the results where the kernel changes by the sum of its gradients: Xᵀ X D.

        Args:
            inputs: for each site (B, I, P).
            deltas: for each site (m, B, P, O).

        Returns:
            For each site (m, B, P, O).
        """
        x, d = jnp.concatenate(inputs, axis=2), jnp.concatenate(deltas, axis=2)
        pushed = jax.vmap(_spread, (0, 1), 1)(x, d)
        ends, start = [], 0
        for site in self.sites:
            ends.append(pushed[:, :, start : start + site.num_positions])
            start += site.num_positions
        return ends


def _gradient_gram(x: jax.Array, d: jax.Array) -> jax.Array:
    """<X D_k, X D_l> of one kernel: X (I, P), D (m, P, O)."""
    rows = jnp.einsum("kpo,ip->koi", d, x).reshape(d.shape[0], -1)
    return jnp.matmul(rows, rows.T)


def _patch_gram(x: jax.Array, d: jax.Array) -> jax.Array:
    """<D_k, Xᵀ X D_l> of one kernel."""
    return jnp.matmul(d.reshape(d.shape[0], -1), _spread(x, d).reshape(d.shape[0], -1).T)


def _spread(x: jax.Array, d: jax.Array) -> jax.Array:
    """Xᵀ X D of one kernel."""
    num_inputs, num_positions = x.shape
    if num_positions == 1:
        return jnp.sum(x * x) * d
    if num_positions <= 2 * num_inputs:
        return jnp.einsum("pq,kqo->kpo", jnp.matmul(x.T, x), d)
    return jnp.einsum("iq,kio->kqo", x, jnp.einsum("ip,kpo->kio", x, d))


def _over_groups(gram_fn: Callable[..., jax.Array], x: jax.Array, d: jax.Array) -> jax.Array:
    """The sum over kernels side by side; a single one goes without the axis, which would cost copies."""
    if x.shape[0] == 1:
        return gram_fn(x[0], d[:, 0])
    return jnp.sum(jax.vmap(gram_fn, (0, 1))(x, d), axis=0)


def find_kernel(program: Program, leaf: int) -> Kernel | str:
    """Read a parameter leaf as a kernel.

    Args:
        program: the program.
        leaf: index of the leaf.

    Returns:
        The kernel, or why it is none.
    """
    uses = program.uses[leaf]
    if not uses:
        return "unused"
    found = [_find(program, use) for use in uses]
    reasons = [reason for reason in found if isinstance(reason, str)]
    if reasons:
        return " and ".join(dict.fromkeys(reasons))
    sites = tuple(site for site in found if isinstance(site, Site))
    if len({site.key for site in sites}) > 1:
        return "is a kernel in several arrangements"
    return Kernel(leaf, sites)


def _find(program: Program, use: Use) -> Site | str:
    site = find_site(program, use)
    if isinstance(site, Site) and sum(other.step == use.step for leaf in program.uses for other in leaf) > 1:
        return f"is multiplied by a parameter in {program.steps[site.step].name}"
    return site
