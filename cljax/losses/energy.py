"""Energy functions: radial Legendre functions that measure how far a function is from flat."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._typing import PyTree


@dataclasses.dataclass(frozen=True)
class PowerEnergy:
    """Ψ(μ) = |a μ|^r / r + c on any pytree, with r > 1 and a > 0; |·| is the norm over all leaves.

    Attributes:
        exponent: r.
        scale: a.
        offset: c; positive allows for non-smooth functions, negative for non-convex ones.
    """

    exponent: float
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if r is not above 1 or a not above 0.
        """
        if not 1 < self.exponent < float("inf"):
            raise ValueError(f"exponent: expected a finite number above 1, got {self.exponent}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale: expected a finite number above 0, got {self.scale}")

    @property
    def dual(self) -> "PowerEnergy":
        """Ψ*(ν) = |ν / a|^q / q − c with 1/r + 1/q = 1, an energy function again."""
        return PowerEnergy(self.exponent / (self.exponent - 1), 1 / self.scale, -self.offset)

    def value(self, mu: PyTree) -> jax.Array:
        """Ψ(μ): a scalar."""
        return (self.scale * tree.norm(mu)) ** self.exponent / self.exponent + self.offset

    def gradient(self, mu: PyTree) -> PyTree:
        """∇Ψ(μ) = a^r |μ|^(r−2) μ, which is 0 at 0: like ``mu``."""
        norm = tree.norm(mu)
        safe = jnp.where(norm == 0, 1, norm)
        factor = jnp.where(norm == 0, 0, self.scale**self.exponent * safe ** (self.exponent - 2))
        return jax.tree.map(lambda x: (factor * x).astype(x.dtype), mu)


def power_energy(exponent: float, scale: float = 1.0, offset: float = 0.0) -> PowerEnergy:
    """The energy function Ψ(μ) = |a μ|^r / r + c.

    Args:
        exponent: r, above 1.
        scale: a, above 0.
        offset: c.

    Returns:
        A hashable object with ``value``, ``gradient`` and the conjugate ``dual``.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.power_energy(2.0, scale=2.0).dual.value(jnp.array([4.0])).item()
        2.0

    References:
        arXiv:2608.09523, Definition 3.1 and Proposition 3.1.
    """
    return PowerEnergy(float(exponent), float(scale), float(offset))
