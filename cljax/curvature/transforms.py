"""Operators made of operators: blocks and chains."""

import itertools
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from cljax._checks import check_same_struct
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, check_is_operator


@pytree_dataclass
class Restricted(LinearOperator):
    """Pᵀ A P with P the inclusion of some leaves; made by ``restrict``.

    Attributes:
        op: an operator from a space to itself.
        kept: for each leaf of its vectors whether it is kept.
    """

    op: LinearOperator
    kept: tuple[bool, ...] = static()

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the leaves that are kept, None in place of the others."""
        return _select(self.op.struct, self.kept)

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
        """The block of the transpose."""
        return self if self.symmetric else Restricted(self.op.T, self.kept)

    def linearize(self) -> Matvec:
        """The product with zeros in the leaves that are not kept."""
        return jax.tree_util.Partial(_restricted, self.op.linearize(), self)


def _select(vector: PyTree, kept: tuple[bool, ...]) -> PyTree:
    leaves, treedef = jax.tree.flatten(vector)
    return jax.tree.unflatten(treedef, [leaf if keep else None for leaf, keep in zip(leaves, kept, strict=True)])


def _restricted(product: Matvec, op: Restricted, v: PyTree) -> PyTree:
    given = iter(jax.tree.leaves(v))
    leaves, treedef = jax.tree.flatten(op.op.struct)
    full = [next(given) if keep else jnp.zeros(x.shape, x.dtype) for x, keep in zip(leaves, op.kept, strict=True)]
    return _select(product(jax.tree.unflatten(treedef, full)), op.kept)


def restrict(op: LinearOperator, predicate: Callable[[str], bool]) -> Restricted:
    """The principal block of an operator that belongs to some leaves of its vectors, for example one layer.

    A product costs as much as one of ``op``.

    Args:
        op: an operator from a space to itself.
        predicate: takes the path of a leaf, such as "layers/0/kernel" ("" where the vector is one array), and says
            whether it is kept.

    Returns:
        An operator on vectors of the same containers, with None in place of the leaves that are left out.

    Raises:
        TypeError: if ``op`` is no operator.
        ValueError: if ``op`` maps to another space, or no leaf is kept.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(2)}
        >>> op = curvature.hessian(lambda p: jnp.sum(p["kernel"] ** 2) * p["bias"][0] ** 2, params)
        >>> block = curvature.restrict(op, lambda path: path == "kernel")
        >>> (block @ {"bias": None, "kernel": jnp.ones(2)})["kernel"].tolist()
        [2.0, 2.0]
    """
    check_endomorphism("op", op)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(op.struct)
    ]
    kept = tuple(bool(predicate(path)) for path in paths)
    if not any(kept):
        shown = ", ".join(map(repr, paths[:8])) + (", ..." if len(paths) > 8 else "")
        raise ValueError(f"predicate: expected it to keep at least one leaf, got none of {shown}")
    return Restricted(op, kept)


@pytree_dataclass
class Composed(LinearOperator):
    """``left · right``; made by ``compose``.

    Attributes:
        left: an operator on the products of ``right``.
        right: an operator.
        is_symmetric: whether the chain is its own transpose.
        is_semidefinite: whether it is so with nothing in the middle, or a semidefinite operator.
    """

    left: LinearOperator
    right: LinearOperator
    is_symmetric: bool = static(default=False)
    is_semidefinite: bool = static(default=False)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the vectors of ``right``."""
        return self.right.struct

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the products of ``left``."""
        return self.left.out_struct

    @property
    def symmetric(self) -> bool:
        """Whether the chain is a palindrome of transposes, or was said to be symmetric."""
        return self.is_symmetric

    @property
    def positive_semidefinite(self) -> bool:
        """Whether the chain is seen to be B Bᵀ, or B A Bᵀ with A positive semidefinite."""
        return self.is_semidefinite

    @property
    def T(self) -> LinearOperator:
        """The transposes in reverse order."""
        return self if self.is_symmetric else Composed(self.right.T, self.left.T)

    def linearize(self) -> Matvec:
        """Both products, one after the other."""
        return jax.tree_util.Partial(_composed, self.left.linearize(), self.right.linearize())


def _composed(left: Matvec, right: Matvec, v: PyTree) -> PyTree:
    return left(right(v))


def compose(*ops: LinearOperator, symmetric: bool | None = None) -> Composed:
    """The chain of operators A B C ..., applied from the right.

    Args:
        *ops: two operators or more, each on the products of the one after it.
        symmetric: whether the chain is symmetric; None to see it where the chain reads the same from both ends, as
            ``compose(J.T, J)`` does. Nothing checks what is said.

    Returns:
        An operator.

    Raises:
        TypeError: if an argument is no operator, or dtypes do not fit.
        ValueError: if there are less than two, or shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> J = curvature.jacobian(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0]]))
        >>> normal = curvature.compose(J.T, J)
        >>> (normal @ jnp.ones((2, 1))).tolist(), normal.symmetric
        ([[3.0], [6.0]], True)
    """
    if len(ops) < 2:
        raise ValueError(f"ops: expected at least 2 operators, got {len(ops)}")
    for index, op in enumerate(ops):
        check_is_operator(f"ops[{index}]", op)
    for index, (left, right) in enumerate(itertools.pairwise(ops)):
        check_same_struct(f"ops[{index + 1}] @ v", right.out_struct, left.struct)
    palindrome = all(a.T is b or b.T is a for a, b in zip(ops, reversed(ops), strict=True))
    if symmetric is None:
        symmetric = palindrome
    middle = ops[len(ops) // 2]
    semidefinite = palindrome and symmetric and (len(ops) % 2 == 0 or middle.positive_semidefinite)
    *rest, last = ops
    inner = reduce(lambda right, left: Composed(left, right), reversed(rest[1:]), last)
    return Composed(rest[0], inner, symmetric, semidefinite)


def check_endomorphism(name: str, op: Any) -> None:
    """Require an operator from a space to itself.

    Args:
        name: the argument's name, for the message.
        op: what the caller gave.

    Raises:
        TypeError: if ``op`` is no ``LinearOperator``, or its products have other dtypes than its vectors.
        ValueError: if its products have another structure or other shapes.
    """
    check_is_operator(name, op)
    check_same_struct(f"{name} @ v", op.out_struct, op.struct)
