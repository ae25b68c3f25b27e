"""Extreme eigenpairs with what is known of their errors."""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._checks import check_same_struct
from cljax._pytree import pytree_dataclass, static
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.spectral.memory import ALL, Memory


class Status(enum.IntEnum):
    """What ended the search for a pair."""

    CONVERGED = 0
    """Its error is at most the tolerance, and a random start hardly hides a more extreme pair."""
    ROUNDING = 1
    """Its residual is at the level of rounding, 32 eps ‖A‖, which is above the tolerance: no product would lower
    it. More extreme pairs within some hundred eps ‖A‖ may be hidden."""
    TRACKED = 2
    """Its error is at most the tolerance. That it is the extreme one is known only as far as the kept vectors of a warm
    start and its check directions show, which is less than what a cold run knows."""
    LIKELY = 3
    """Its error is at most the tolerance, but a cold run ended, its products used up or ``certify`` False, before its
    residual was so small that a random start hardly hides a more extreme pair."""
    BUDGET = 4
    """The products were used up before."""
    NOT_FINITE = 5
    """The operator gave NaN or infinity."""


def status_names(status: Any) -> list[str]:
    """Names of ``Status`` in lower case, of an array (k,) on the host."""
    return [Status(int(number)).name.lower() for number in status]


@pytree_dataclass
class Eigenpairs:
    """k extreme eigenpairs, bottom ones first.

    Attributes:
        values: (k,), ascending; Rayleigh quotients of ``vectors``.
        vectors: a pytree with leaves (k, *shape), orthonormal, in float32 at least.
        residual_norms: (k,), ‖A v − θ v‖ from the products that were taken: an eigenvalue lies within this of θ, up
            to rounding of 32 eps ‖A‖.
        value_errors: (k,), estimate of |θ − λ|: 2 residual² / distance to the nearest other Ritz value, at most the
            residual. It takes that Ritz value for the nearest other eigenvalue: wrong where two eigenvalues nearer
            than about √(tol) ‖A‖ are still seen as one.
        status: (k,) int32, of ``Status``.
        num_products: int32 scalar, all products used.
        num_breakdowns: int32 scalar, how often the Krylov space was exhausted.
        orthogonality: scalar, greatest entry of |Vᵀ V − I|; near eps it rules out one eigenvalue returned twice.
        asymmetry: scalar, greatest |⟨u, A v⟩ − ⟨v, A u⟩| over all pairs of basis vectors, in units of A; above
            rounding, the operator is not symmetric or not the same at each product.
        jumped: scalar bool, whether a warm start found that the spectrum had changed too much for it.
        guards: a pytree with leaves (g, *shape), for the next warm start: the next vectors inwards, not converged, one
            step of a power iteration ahead of what was multiplied.
        guard_values: (g,), estimates of their Rayleigh quotients.
        block_size: start vectors: an eigenvalue of higher multiplicity may appear fewer times than it occurs.
    """

    values: jax.Array
    vectors: PyTree
    residual_norms: jax.Array
    value_errors: jax.Array
    status: jax.Array
    num_products: jax.Array
    num_breakdowns: jax.Array
    orthogonality: jax.Array
    asymmetry: jax.Array
    jumped: jax.Array
    guards: PyTree
    guard_values: jax.Array
    block_size: int = static(default=1)

    @property
    def converged(self) -> jax.Array:
        """(k,) bool: the error is at most the tolerance or the rounding, and hardly a more extreme pair is hidden.

        Never of a warm start: see ``accurate``.
        """
        return self.status <= Status.ROUNDING

    @property
    def accurate(self) -> jax.Array:
        """(k,) bool: the error is at most the tolerance or the rounding, whatever else the spectrum may hide.

        These are eigenpairs; of ``Status.TRACKED`` and ``Status.LIKELY`` it is less than certain that they are the
        extreme ones.
        """
        return self.status <= Status.LIKELY

    def only_accurate(self) -> "Eigenpairs":
        """The pairs that are ``accurate``, such as for ``known`` of a density; outside of jit.

        Returns:
            The same with fewer pairs, none where none is accurate.
        """
        chosen = np.flatnonzero(np.asarray(self.accurate))
        fields = ("values", "vectors", "residual_norms", "value_errors", "status")
        kept = {name: jax.tree.map(lambda x: x[chosen], getattr(self, name)) for name in fields}
        return dataclasses.replace(self, **kept)


def num_guards(num_top: int, num_bottom: int, dimension: int) -> int:
    """Vectors kept beside the wanted ones for a warm start: one for each end, where there is room."""
    ends = (num_top > 0) + (num_bottom > 0)
    return ends if num_top + num_bottom + ends <= dimension else 0


def empty_pairs(struct: PyTree, num_top: int, num_bottom: int, memory: Memory = ALL) -> Eigenpairs:
    """Pairs of zeros, from which a warm start is a cold one.

    Args:
        struct: shapes and dtypes of the operator's vectors, arrays or ``jax.ShapeDtypeStruct``.
        num_top: greatest eigenvalues.
        num_bottom: least eigenvalues.
        memory: how the vectors will be kept.

    Returns:
        The pairs, not converged, of the structure and in the shardings that ``extreme_eigenpairs`` returns.
    """
    layout = memory.layout(tree.struct(struct))
    like = tree.work_struct(struct)
    dtype = jnp.result_type(*jax.tree.leaves(like))
    pairs, guards = num_top + num_bottom, num_guards(num_top, num_bottom, tree.size(like))

    leaves = jax.tree.leaves(like)
    structure: Any = jax.tree.structure(like)

    def zeros(num: int) -> PyTree:
        if layout is not None:
            return layout.zeros(like, num)
        return structure.unflatten(_filled(tuple(((num, *x.shape), x.dtype, 0) for x in leaves)))

    numbers = (((pairs,), dtype, 0), ((guards,), dtype, 0), ((), dtype, 0), ((), jnp.int32, 0), ((), bool, 0))
    none, guard_values, scalar, count, no, status = _filled((*numbers, ((pairs,), jnp.int32, int(Status.BUDGET))))
    return Eigenpairs(
        values=none,
        vectors=zeros(pairs),
        residual_norms=none,
        value_errors=none,
        status=status,
        num_products=count,
        num_breakdowns=count,
        orthogonality=scalar,
        asymmetry=scalar,
        jumped=no,
        guards=zeros(guards),
        guard_values=guard_values,
    )


@quick_jit(static_argnums=0)
def _filled(likes: tuple[tuple[Any, Any, int], ...]) -> list[jax.Array]:
    return [jnp.full(shape, value, dtype) for shape, dtype, value in likes]


def place_pairs(pairs: Eigenpairs, struct: PyTree, memory: Memory) -> Eigenpairs:
    """The pairs with their vectors in the shardings that ``extreme_eigenpairs`` returns.

    Args:
        pairs: for operators of ``struct``.
        struct: shapes, dtypes and shardings of the operator's vectors.
        memory: how vectors are kept.

    Returns:
        The same numbers.
    """
    layout = memory.layout(struct)
    if layout is None:
        return pairs
    return dataclasses.replace(pairs, vectors=layout.put(pairs.vectors), guards=layout.put(pairs.guards))


def check_start(start: Any, struct: PyTree, name: str = "start") -> None:
    """Require that ``start`` has vectors of ``struct``.

    Args:
        start: what the caller gave.
        struct: shapes and dtypes of the operator's vectors.
        name: of the argument, for the message.

    Raises:
        TypeError: if it is no ``Eigenpairs``.
        ValueError: if its vectors are of another structure or shape.
    """
    if not isinstance(start, Eigenpairs):
        raise TypeError(f"{name}: expected Eigenpairs of a previous call, got {type(start).__name__}")
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start.vectors)
    check_same_struct(f"{name}.vectors", first, tree.work_struct(struct))
