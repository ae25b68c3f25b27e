"""Operators on data that does not fit in memory: a loop over batches on the host, vectors and sums on the device."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._batch import Batch, pad_batch
from cljax._in_flight import landed
from cljax._pytree import pytree_dataclass, static
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, check_symmetric

_IN_FLIGHT = 2  # batches that the device may hold before the host waits

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class _Stream:
    """Batches that can be read again, with what must not change from batch to batch and from pass to pass."""

    def __init__(self, batches: Batches):
        if isinstance(batches, Iterator):
            raise ValueError(
                f"batches: expected data that can be read many times, got an iterator ({type(batches).__name__}); "
                "pass a list, a loader, or a function that returns a new iterator"
            )
        if not callable(batches) and not isinstance(batches, Iterable):
            raise TypeError(f"batches: expected an iterable or a function, got {type(batches).__name__}")
        self._batches = batches
        self._layout: Any = None  # structure, shapes but for the first axis, dtypes
        self._size = 0  # examples of the largest batch
        self._first_pass: tuple[int, float, float] | None = None  # examples, their weight, its rounding error

    def __iter__(self) -> Iterator[tuple[Batch, float]]:
        """One pass: batches of one size with their weights, but for those of weight 0, and each one's total weight."""
        examples, totals, error = 0, [0.0], 0.0
        for item in self._batches() if callable(self._batches) else self._batches:
            batch = self._checked(item)
            total, rounding = _total_weight(batch.weight)
            examples += batch.num_examples
            totals.append(total)
            error += rounding
            self._size = max(self._size, batch.num_examples)
            if total != 0:
                yield pad_batch(batch, self._size), total
        self._end_pass(examples, math.fsum(totals), error)

    def _checked(self, item: Any) -> Batch:
        batch = Batch(*item) if isinstance(item, tuple) and len(item) in (2, 3) else item
        if not isinstance(batch, Batch):
            got = type(item).__name__
            raise TypeError(
                f"batches: expected items cljax.Batch, got {got}; build them as cljax.Batch(inputs, targets)"
            )
        batch = pad_batch(batch, batch.num_examples)
        if not jnp.issubdtype(batch.weight.dtype, jnp.floating):  # counts and masks go with weights left out
            batch = Batch(batch.inputs, batch.targets, batch.weight.astype(np.float32))
        leaves, structure = jax.tree.flatten(batch)
        layout = structure, [(x.shape[1:], jnp.result_type(x).name) for x in leaves]
        self._layout = self._layout or layout
        if layout != self._layout:
            raise ValueError(
                f"batches: expected every batch to be like the first but for its size, {_words(self._layout)}, got "
                f"{_words(layout)}; pad sequences to one length, with weight 0"
            )
        return batch

    def _end_pass(self, examples: int, total: float, error: float) -> None:
        first = self._first_pass
        if examples == 0 and first is None:
            raise ValueError("batches: expected at least one batch, got none")
        if total == 0:
            raise ValueError(f"batches: expected a weight above 0, got {examples} examples of weight 0")
        if first is not None and (examples != first[0] or abs(total - first[1]) > error + first[2]):
            raise ValueError(
                f"batches: expected the data of the first pass, {first[0]} examples of weight {first[1]:g}, got "
                f"{examples} of weight {total:g}; pass a loader or a function that gives the same examples in each pass"
            )
        self._first_pass = first or (examples, total, error)


def _words(layout: Any) -> str:
    return f"{layout[0]} with " + ", ".join(f"{dtype}(n, {str(shape)[1:-1]})" for shape, dtype in layout[1])


def _total_weight(weight: Any) -> tuple[float, float]:
    """Σw, summed on the host unless other processes hold a part of it, and its rounding error."""
    if not isinstance(weight, jax.Array) or weight.is_fully_addressable:
        weight = np.asarray(weight).astype(np.float64)
    if float(weight.min()) < 0:
        raise ValueError(
            "batches: expected no negative weight, as a batch whose weights cancel has no mean, got "
            f"{float(weight.min()):g}"
        )
    total = float(weight.sum())
    return total, 8 * float(jnp.finfo(weight.dtype).eps) * math.sqrt(weight.size) * total


def _mean(fn: Callable[[Batch], PyTree], stream: _Stream) -> PyTree:
    """Σ_c (W_c / W) fn(batch c), in the dtypes to accumulate in; the device never waits for the host's next batch."""
    total: PyTree = None
    weight = 0.0
    in_flight: deque[jax.Array] = deque()
    for batch, share in stream:
        value = fn(batch)
        if total is None:
            total = tree.zeros_like(tree.to_work(value))
        total, done = landed(_add(total, value, share))
        weight += share
        in_flight.append(done)
        if len(in_flight) > _IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
    return landed(_divide(total, weight))


@partial(jax.jit, donate_argnums=0)
def _add(total: PyTree, value: PyTree, share: jax.Array | float) -> tuple[PyTree, jax.Array]:
    return tree.axpy(share, tree.to_work(value), total), jnp.asarray(share)


@partial(jax.jit, donate_argnums=0)
def _divide(total: PyTree, weight: jax.Array | float) -> PyTree:
    return tree.normalize(total, jnp.asarray(weight))


@pytree_dataclass
class Streamed(LinearOperator):
    """Σ_c (W_c / W) A_c over batches c; made by ``streamed``.

    Attributes:
        operator_fn: maps a batch to its operator A_c.
        stream: the batches.
        space: structure and leaves of ``struct``.
        is_semidefinite: whether the operator of the first batch says so of itself.
    """

    operator_fn: Callable[[Batch], LinearOperator] = static()
    stream: _Stream = static()
    space: tuple[Any, tuple[Any, ...]] = static()
    is_semidefinite: bool = static(default=False)

    @property
    def struct(self) -> PyTree:
        """Shapes and dtypes of the vectors that each batch's operator takes."""
        return jax.tree.unflatten(*self.space)

    @property
    def positive_semidefinite(self) -> bool:
        """Whether the operator of the first batch is: weights below 0 are refused."""
        return self.is_semidefinite

    @property
    def host_only(self) -> bool:
        """True."""
        return True

    def linearize(self) -> Matvec:
        """The product: one pass over the batches, with nothing kept from one product to the next."""
        return jax.tree_util.Partial(_product, self)


def _product(op: Streamed, v: PyTree) -> PyTree:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(v)):
        raise ValueError(
            "v: expected arrays, got traced ones: products with streamed data run on the host and cannot be part of "
            "jit, vmap or grad; call them outside, and spectral solvers with driver='host'"
        )
    return tree.cast_like(_mean(lambda batch: op.operator_fn(batch) @ v, op.stream), op.struct)


def streamed(operator_fn: Callable[[Batch], LinearOperator], batches: Batches) -> Streamed:
    """The weighted mean of an operator over batches that do not fit in memory, read anew for each product.

    It is the operator of all batches together, exactly, where that of a batch is a derivative of a weighted mean, as
    ``hessian`` of a ``losses.objective`` and ``gauss_newton`` are. Batches smaller than others are filled up with
    weight 0, so that one program serves all. Sums are kept in float32 at least, on the device; the host reads ahead by
    at most two batches.

    A pass that gives another number of examples or another total weight than the first one is refused. Other data of
    the same size, as of random augmentation, goes unseen and makes the products those of no one operator.

    Args:
        operator_fn: ``operator_fn(batch) -> LinearOperator``, symmetric, for example
            ``lambda batch: curvature.hessian(objective, params, batch)`` with a named ``objective``: it is called for
            each batch, outside of jit.
        batches: an iterable that starts anew each time, such as a list or a loader, or a function that returns an
            iterator; of ``cljax.Batch`` or tuples (inputs, targets[, weight]). Any order and any sizes, but one
            structure, one dtype and, apart from the size, one shape. A batch is read at once, to learn the structure.

    Returns:
        A symmetric operator whose products run on the host only (``host_only``): not inside of jit.

    Raises:
        TypeError: if ``batches`` cannot be iterated over, an item is no batch, or ``operator_fn`` gives no operator.
        ValueError: if ``batches`` is an iterator, which one pass uses up, or empty; or, here or at a product, batches
            differ in structure, weights are negative or all 0, or passes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import curvature, losses
        >>> objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
        >>> data = [cljax.Batch(jnp.eye(2), jnp.zeros((2, 1))), cljax.Batch(jnp.ones((1, 2)), jnp.zeros((1, 1)))]
        >>> op = curvature.streamed(lambda batch: curvature.hessian(objective, jnp.zeros((2, 1)), batch), data)
        >>> (op @ jnp.ones((2, 1))).tolist()
        [[1.0], [1.0]]
    """
    stream = _Stream(batches)
    first = next(iter(stream))[0]
    op = operator_fn(first)
    check_symmetric("operator_fn(batch)", op)
    leaves, structure = jax.tree.flatten(op.struct)
    return Streamed(operator_fn, stream, (structure, tuple(leaves)), op.positive_semidefinite)


def streamed_mean(fn: Callable[[Batch], PyTree], batches: Batches) -> PyTree:
    """The weighted mean over batches of anything that is itself a weighted mean: a loss, a gradient.

    Args:
        fn: ``fn(batch) -> pytree of floating arrays``; jit it where it is costly.
        batches: as for ``streamed``; they are read once.

    Returns:
        Σ_c (W_c / W) fn(batch c), W_c the weight of a batch and W that of all, accumulated in float32 at least.

    Raises:
        TypeError: if ``batches`` cannot be iterated over, or an item is no batch.
        ValueError: as for ``streamed``.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import curvature, losses
        >>> objective = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
        >>> data = [cljax.Batch(jnp.eye(2), jnp.zeros((2, 1))), cljax.Batch(jnp.ones((1, 2)), jnp.zeros((1, 1)))]
        >>> curvature.streamed_mean(lambda batch: objective(jnp.ones((2, 1)), batch), data).item()
        1.0
    """
    return _mean(fn, _Stream(batches))
