"""A user's own product as an operator."""

from typing import Any

import jax

from cljax import tree
from cljax._checks import check_inexact_tree, check_same_struct
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, as_callable_tree, highest_precision


@jax.tree_util.register_pytree_node_class
class FunctionOperator(LinearOperator):
    """The symmetric linear map ``v -> fn(v, *args)``.

    Arrays that the product needs go into ``args``, where they are leaves of the operator: captured in ``fn`` they
    would be compiled into the program, once for every value.

    Args:
        fn: ``fn(v, *args)``, linear and symmetric in ``v``: hashable, or a callable pytree.
        struct: pytree of floating arrays, or of ``jax.ShapeDtypeStruct``, like the vectors.
        *args: pytrees of arrays.
        positive_semidefinite: whether the map is known to have no eigenvalue below 0; nothing checks what is said.

    Raises:
        TypeError: if ``struct`` has a leaf that is not floating, ``fn`` is not hashable, or, at the first product, it
            returns other dtypes than it takes.
        ValueError: at the first product, if it returns other shapes than it takes.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> (op @ jnp.ones(2)).tolist()
        [1.0, 3.0]
    """

    def __init__(self, fn: Any, struct: PyTree, *args: Any, positive_semidefinite: bool = False) -> None:
        check_inexact_tree("struct", struct)
        self._fn = as_callable_tree("fn", fn)
        self._struct = tree.struct(struct)
        self._args = args
        self._semidefinite = bool(positive_semidefinite)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the vectors."""
        return self._struct

    @property
    def positive_semidefinite(self) -> bool:
        """What was said."""
        return self._semidefinite

    @highest_precision
    def linearize(self) -> Matvec:
        """The function with its arguments."""
        return jax.tree_util.Partial(_call, self._fn, self._args)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Leaves: the function's and the arguments'; static: shapes, dtypes, shardings and what was said."""
        leaves, treedef = jax.tree.flatten(self._struct)
        shapes = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
        return (self._fn, self._args), (shapes, treedef, self._semidefinite)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: tuple[Any, ...]) -> "FunctionOperator":
        """Rebuild without checks: the leaves may be placeholders."""
        self = object.__new__(cls)
        shapes, treedef, self._semidefinite = aux
        self._fn, self._args = children
        self._struct = treedef.unflatten([jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in shapes])
        return self


@highest_precision
def _call(fn: Any, args: tuple[Any, ...], v: PyTree) -> PyTree:
    product = fn(v, *args)
    check_same_struct("fn(v, *args)", product, v)
    return product
