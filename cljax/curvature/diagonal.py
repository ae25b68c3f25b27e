"""Operators and diagonal matrices: preconditioning, and L2 penalties."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator
from cljax.curvature.transforms import check_endomorphism


@pytree_dataclass
class Preconditioned(LinearOperator):
    """P^(−1/2) A P^(−1/2) with P diagonal; made by ``precondition``.

    Attributes:
        op: an operator from a space to itself.
        diagonal: the diagonal of P: leaves that broadcast to those of the vectors.
    """

    op: LinearOperator
    diagonal: PyTree

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of ``op``."""
        return self.op.struct

    @property
    def symmetric(self) -> bool:
        """Whether ``op`` is."""
        return self.op.symmetric

    @property
    def positive_semidefinite(self) -> bool:
        """Whether ``op`` is."""
        return self.op.positive_semidefinite

    @property
    def T(self) -> LinearOperator:
        """The transpose with the same diagonal."""
        return self if self.symmetric else Preconditioned(self.op.T, self.diagonal)

    def linearize(self) -> Matvec:
        """The product between two scalings."""
        return jax.tree_util.Partial(_preconditioned, self.op.linearize(), self.diagonal)

    def to_params(self, u: PyTree) -> PyTree:
        """The vector P^(−1/2) u: of an eigenvector u, the eigenvector of P⁻¹ A with the same eigenvalue.

        Args:
            u: a pytree like ``struct``.

        Returns:
            A direction in the space of ``op``, not of norm 1.
        """
        return _divide_by_root(u, self.diagonal)


def _preconditioned(product: Matvec, diagonal: PyTree, v: PyTree) -> PyTree:
    return _divide_by_root(product(_divide_by_root(v, diagonal)), diagonal)


def _divide_by_root(v: PyTree, diagonal: PyTree) -> PyTree:
    return jax.tree.map(lambda x, d: (x / jnp.sqrt(d)).astype(x.dtype), v, diagonal)


def precondition(op: LinearOperator, diagonal: PyTree) -> Preconditioned:
    """The curvature that a preconditioned method sees: P^(−1/2) A P^(−1/2), symmetric, with the eigenvalues of P⁻¹ A.

    An update −η P⁻¹ g is stable along an eigenvector up to an eigenvalue of 2/η. ``training.preconditioner`` reads P
    out of an optimizer's state.

    Args:
        op: an operator from a space to itself.
        diagonal: positive entries of P: a scalar, or a pytree of the containers of ``op.struct`` whose leaves broadcast
            to its leaves.

    Returns:
        An operator on the same space; ``.to_params(u)`` takes its vectors back to the space of ``op``.

    Raises:
        TypeError: if ``op`` is no operator.
        ValueError: if ``op`` maps to another space, the diagonal does not fit, or an entry is known not to be positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.hessian(lambda w: jnp.sum(w**2), jnp.zeros(2))
        >>> (curvature.precondition(op, jnp.array([1.0, 4.0])) @ jnp.ones(2)).tolist()
        [2.0, 0.5]

    References:
        Cohen et al., Adaptive gradient methods at the edge of stability, arXiv:2207.14484, equation 2.
    """
    check_endomorphism("op", op)
    diagonal = _as_diagonal(diagonal, op.struct)
    for path, leaf in jax.tree_util.tree_leaves_with_path(diagonal):
        if not isinstance(leaf, jax.core.Tracer) and not bool(jnp.all(leaf > 0)):
            where = f"diagonal{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected positive entries, got {float(jnp.min(leaf))}; add a small constant")
    return Preconditioned(op, diagonal)


@pytree_dataclass
class Shifted(LinearOperator):
    """A + C with C diagonal; made by ``shift``.

    Attributes:
        op: an operator from a space to itself.
        diagonal: the diagonal of C: leaves that broadcast to those of the vectors.
    """

    op: LinearOperator
    diagonal: PyTree

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of ``op``."""
        return self.op.struct

    @property
    def symmetric(self) -> bool:
        """Whether ``op`` is."""
        return self.op.symmetric

    @property
    def T(self) -> LinearOperator:
        """The shifted transpose."""
        return self if self.symmetric else Shifted(self.op.T, self.diagonal)

    def linearize(self) -> Matvec:
        """The product and the diagonal's."""
        return jax.tree_util.Partial(_shifted, self.op.linearize(), self.diagonal)


def _shifted(product: Matvec, diagonal: PyTree, v: PyTree) -> PyTree:
    return jax.tree.map(lambda y, d, x: (y + d * x).astype(y.dtype), product(v), diagonal, v)


def shift(op: LinearOperator, diagonal: PyTree) -> Shifted:
    """The operator plus c·I, or plus a diagonal: how weight decay gets into a curvature.

    ``optax.add_decayed_weights(λ)`` before the step size, as in L2-regularized SGD, is the gradient of λ/2 ‖θ‖²:
    ``shift(op, λ)`` is the Hessian with it, ``op`` the one without; with a mask, λ stands in the leaves that decay and
    0 in the others. The decay of AdamW is decoupled from the gradient and belongs to no Hessian.

    Args:
        op: an operator from a space to itself.
        diagonal: a scalar, or a pytree of the containers of ``op.struct`` whose leaves broadcast to its leaves.

    Returns:
        An operator on the same space.

    Raises:
        TypeError: if ``op`` is no operator.
        ValueError: if ``op`` maps to another space, or the diagonal does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.hessian(lambda w: jnp.sum(w**2), jnp.zeros(2))
        >>> (curvature.shift(op, 0.5) @ jnp.ones(2)).tolist()
        [2.5, 2.5]
    """
    check_endomorphism("op", op)
    return Shifted(op, _as_diagonal(diagonal, op.struct))


def _as_diagonal(diagonal: Any, struct: PyTree) -> PyTree:
    if jax.tree_util.all_leaves([diagonal]) and jnp.shape(diagonal) == ():
        return jax.tree.map(lambda _: jnp.asarray(diagonal), struct)
    got: Any = jax.tree.structure(diagonal)
    expected: Any = jax.tree.structure(struct)
    if got != expected:
        raise ValueError(f"diagonal: expected a scalar or the pytree structure {expected}, got {got}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(diagonal), jax.tree.leaves(struct), strict=True)
    for (path, leaf), like in pairs:
        shape = jnp.shape(leaf)
        fits = len(shape) == len(like.shape) and all(a in (1, b) for a, b in zip(shape, like.shape, strict=True))
        if shape and not fits:
            where = f"diagonal{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected a scalar or a shape that broadcasts to {like.shape}, got {shape}")
    return jax.tree.map(jnp.asarray, diagonal)
