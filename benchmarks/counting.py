"""Products counted where they are multiplied, not where an estimator says how many it took."""

import threading
from functools import partial
from typing import Any

import jax
import numpy as np

from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator


class Counter:
    """A number of products; each vector of a block is one."""

    def __init__(self) -> None:
        self._total = 0
        self._lock = threading.Lock()

    def add(self, number: int = 1) -> None:
        """Count more products.

        Args:
            number: how many.
        """
        with self._lock:
            self._total += number

    def read(self) -> int:
        """Products so far, those of compiled programs that have run included."""
        jax.effects_barrier()
        return self._total


@pytree_dataclass
class Counted(LinearOperator):
    """An operator whose products are counted whenever they run, inside of compiled loops and batches too.

    Attributes:
        op: the operator.
        counter: what counts them.
    """

    op: LinearOperator
    counter: Counter = static()

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of ``op``."""
        return self.op.struct

    def linearize(self) -> Matvec:
        """The product of ``op``, with a call of the host beside it."""
        return jax.tree_util.Partial(partial(_multiply, self.counter), self.op.linearize())


def _multiply(counter: Counter, product: Matvec, v: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(v)
    return product(treedef.unflatten([_marked(counter, 1)(leaves[0]), *leaves[1:]]))


def _marked(counter: Counter, number: int) -> Any:
    """The identity, which counts ``number`` when it runs and more in a batch."""

    @jax.custom_batching.custom_vmap
    def mark(x: jax.Array) -> jax.Array:
        jax.debug.callback(partial(counter.add, number))
        return x

    @mark.def_vmap
    def batched(size: int, is_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
        return _marked(counter, number * size)(x), is_batched[0]

    marked = jax.custom_jvp(lambda x: mark(x))
    marked.defjvp(_refused)
    return marked


def _refused(primals: Any, tangents: Any) -> Any:
    raise TypeError("products of a derivative are not counted: multiply by the operator, which is its own transpose")


def counted_function(counter: Counter | None, fn: Any, columns: Any = None) -> Any:
    """A function of the host that counts its calls, or the columns of its last argument.

    Args:
        counter: what counts, or None for the function itself.
        fn: the function.
        columns: ``columns(last argument)``, how many products a call takes; None for one.

    Returns:
        The function.
    """
    if counter is None:
        return fn

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        counter.add(1 if columns is None else columns(args[-1]))
        return fn(*args, **kwargs)

    return wrapped


def num_columns(x: Any) -> int:
    """Vectors in an array of shape (n,) or (n, k)."""
    return 1 if np.ndim(x) == 1 else int(x.shape[1])
