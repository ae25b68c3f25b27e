"""Linear operators on pytrees, as pytrees: parameters and batch are leaves, functions and small ints are static.

Passing an operator through ``jit`` therefore compiles once for all values of the parameters. Products run at the
highest matrix-product precision: at the default one of some accelerators a Hessian is not symmetric to 1e-2.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_same_struct
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree


class LinearOperator(abc.ABC):
    """A linear map between pytrees; symmetric unless said otherwise.

    A subclass is a ``pytree_dataclass`` that gives ``struct`` and ``linearize``; one that is not symmetric also gives
    ``out_struct``, ``symmetric`` and ``T``.

    Attributes:
        struct: shapes and dtypes of the vectors that it takes, as ``jax.ShapeDtypeStruct`` leaves.
        out_struct: shapes and dtypes of its products.
    """

    @property
    @abc.abstractmethod
    def struct(self) -> PyTree:
        """Shapes and dtypes of the vectors that the operator takes."""

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the products."""
        return self.struct

    @property
    def symmetric(self) -> bool:
        """Whether the operator is its own transpose."""
        return True

    @property
    def positive_semidefinite(self) -> bool:
        """Whether the operator is symmetric and known, by what it is made of, to have no eigenvalue below 0."""
        return False

    @property
    def host_only(self) -> bool:
        """Whether products run on the host, batch by batch, and cannot be traced; so do those of what is made of it."""
        return any(isinstance(part, LinearOperator) and part.host_only for part in vars(self).values())

    @property
    def T(self) -> "LinearOperator":
        """The transpose."""
        return self

    @abc.abstractmethod
    def linearize(self) -> Matvec:
        """The product with all work done that does not depend on the vector.

        Returns:
            A pytree that is callable, ``product(v) -> A v``, for solvers that multiply often with one operator; it
            holds what differentiation stores, so keep it inside of the jitted solver.
        """

    def mv(self, v: PyTree) -> PyTree:
        """One product, compiled once for each kind of operator and shape.

        Args:
            v: a pytree of the structure, shapes and dtypes of ``struct``.

        Returns:
            The product, of ``out_struct``, in its shardings.

        Raises:
            ValueError: if structure or shapes of ``v`` differ from ``struct``.
            TypeError: if dtypes differ, or a function of the operator is not hashable.
        """
        check_same_struct("v", v, self.struct)
        product = self.linearize()(v) if self.host_only else _product(self, v)
        return tree.place_like(product, self.out_struct)

    def __matmul__(self, v: PyTree) -> PyTree:
        """``op.mv(v)``."""
        return self.mv(v)

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        """The sum of two operators on the same space."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        check_same_struct("other", other.struct, self.struct)
        check_same_struct("other @ v", other.out_struct, self.out_struct)
        return Sum(self, other)

    def __neg__(self) -> "LinearOperator":
        """The operator times −1."""
        return self.scale(-1.0)

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        """The difference of two operators on the same space."""
        return self + -other if isinstance(other, LinearOperator) else NotImplemented

    def __rmul__(self, factor: jax.Array | float) -> "LinearOperator":
        """``factor * op``, the same as ``op.scale(factor)``."""
        return NotImplemented if isinstance(factor, LinearOperator) else self.scale(factor)

    __array_ufunc__ = None  # NumPy's scalars leave ``factor * op`` to the operator

    def scale(self, factor: jax.Array | float) -> "LinearOperator":
        """``factor`` times the operator; ``factor`` is a scalar, or a ValueError is raised."""
        if jnp.shape(factor) != ():
            raise ValueError(f"factor: expected a scalar, got shape {jnp.shape(factor)}; use a FunctionOperator")
        return Scaled(self, jnp.asarray(factor))


@pytree_dataclass
class Sum(LinearOperator):
    """``left + right``.

    Attributes:
        left: an operator.
        right: an operator on the same space.
    """

    left: LinearOperator
    right: LinearOperator

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of both."""
        return self.left.struct

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the products of both."""
        return self.left.out_struct

    @property
    def symmetric(self) -> bool:
        """Whether both are."""
        return self.left.symmetric and self.right.symmetric

    @property
    def positive_semidefinite(self) -> bool:
        """Whether both are."""
        return self.left.positive_semidefinite and self.right.positive_semidefinite

    @property
    def T(self) -> LinearOperator:
        """The sum of the transposes."""
        return Sum(self.left.T, self.right.T)

    def linearize(self) -> Matvec:
        """The sum of both products."""
        left, right = (_linearize_part(op, self.host_only) for op in (self.left, self.right))
        return jax.tree_util.Partial(_add_products, left, right)


@pytree_dataclass
class Scaled(LinearOperator):
    """``factor · op``.

    Attributes:
        op: an operator.
        factor: scalar array.
    """

    op: LinearOperator
    factor: jax.Array

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of ``op``."""
        return self.op.struct

    @property
    def out_struct(self) -> PyTree:
        """Shapes and dtypes of the products of ``op``."""
        return self.op.out_struct

    @property
    def symmetric(self) -> bool:
        """Whether ``op`` is."""
        return self.op.symmetric

    @property
    def T(self) -> LinearOperator:
        """The scaled transpose."""
        return Scaled(self.op.T, self.factor)

    def linearize(self) -> Matvec:
        """The scaled product."""
        return jax.tree_util.Partial(_scale_product, self.factor, self.op.linearize())


def _add_products(left: Matvec, right: Matvec, v: PyTree) -> PyTree:
    return tree.add(left(v), right(v))


def _scale_product(factor: jax.Array, product: Matvec, v: PyTree) -> PyTree:
    return tree.scale(factor, product(v))


def _linearize_part(op: LinearOperator, host: bool) -> Matvec:
    # on the host a part that can be compiled shall be
    return jax.tree_util.Partial(_product, op) if host and not op.host_only else op.linearize()


@jax.jit
def _product(op: LinearOperator, v: PyTree) -> PyTree:
    return op.linearize()(v)


def highest_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function so that all matrix products traced in it run at the highest precision."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return method(*args, **kwargs)

    return wrapped


def check_is_operator(name: str, op: Any) -> None:
    """Require an operator.

    Args:
        name: the argument's name, for the message.
        op: what the caller gave.

    Raises:
        TypeError: if ``op`` is no ``LinearOperator``.
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(
            f"{name}: expected a cljax.curvature.LinearOperator, got {type(op).__name__}; "
            "wrap a product with curvature.FunctionOperator"
        )


def check_symmetric(name: str, op: Any) -> None:
    """Require a symmetric operator, as eigenvalue solvers need one.

    Args:
        name: the argument's name, for the message.
        op: what the caller gave.

    Raises:
        TypeError: if ``op`` is no ``LinearOperator``.
        ValueError: if it says that it is not symmetric.
    """
    check_is_operator(name, op)
    if not op.symmetric:
        raise ValueError(f"{name}: expected a symmetric operator, got {type(op).__name__}; use gauss_newton for JᵀJ")


def as_callable_tree(name: str, fn: Any) -> Any:
    """A function as a pytree: models that are pytrees keep their arrays as leaves, others become static.

    Args:
        name: the argument's name, for the message.
        fn: a function, a callable object, or a callable pytree.

    Returns:
        A callable pytree.

    Raises:
        TypeError: if ``fn`` is not callable, or neither a pytree nor hashable.
    """
    if not callable(fn):
        raise TypeError(f"{name}: expected a function, got {type(fn).__name__}")
    if not jax.tree_util.all_leaves([fn]):
        return fn
    try:
        hash(fn)
    except TypeError as error:
        raise TypeError(
            f"{name}: expected a hashable function or a callable pytree, got {type(fn).__name__}; "
            "pass its arrays as params or as further arguments"
        ) from error
    return jax.tree_util.Partial(fn)
