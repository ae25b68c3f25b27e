"""What the programs of a Krylov run take, from XLA's memory analysis: they are compiled for shapes, and none is run.

Numbers are bytes on one device: arguments, results and temporary arrays; what one step hands to the next counts once.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cljax import tree
from cljax._layout import layout_of
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral import driver, host_driver, recurrence, rules
from cljax.spectral.goal import Goal
from cljax.spectral.krylov import krylov_start
from cljax.spectral.memory import Memory, run_layout
from cljax.spectral.three_term import ThreeTermState, three_term_update


def num_bytes(shapes: PyTree) -> int:
    """Bytes on one device of all leaves, arrays or ``jax.ShapeDtypeStruct``."""

    def leaf(x: Any) -> int:
        shape = x.sharding.shard_shape(x.shape) if getattr(x, "sharding", None) is not None else x.shape
        return math.prod(shape) * x.dtype.itemsize

    return sum(leaf(x) for x in jax.tree.leaves(shapes) if hasattr(x, "dtype"))


class Programs:
    """The programs of a search, compiled when they are asked for.

    Args:
        op: symmetric operator of arrays or shapes.
        goal: what is looked for.
        num_steps: most products.
        width: start vectors.
        num_results: vectors that the search returns.
    """

    def __init__(self, op: LinearOperator, goal: Goal, num_steps: int, width: int, num_results: int) -> None:
        self._op, self._goal, self._num_steps, self._num_results = op, goal, num_steps, num_results
        self._width = width
        self._vector = jax.tree.map(lambda x: _shape(x, work=True), op.struct)
        self._operand = jax.tree.map(_shape, op.struct)
        self._key = jax.eval_shape(lambda: jax.random.key(0))
        self._op_bytes, self._vector_bytes = num_bytes(op), num_bytes(self._vector)

    def compiled(self, capacity: int, memory: Memory) -> int:
        """The compiled loop, and the vectors that are made of its basis."""
        vectors = self._several(self._width, memory)
        flatten = _is_whole(vectors)
        options = {"num_steps": self._num_steps, "capacity": capacity, "flatten": flatten, "half": memory.half}
        found = _analysis(driver._compiled.lower(self._op, vectors, self._key, self._goal, None, **options))
        kept = found.argument_size_in_bytes + found.output_size_in_bytes
        return kept + max(found.temp_size_in_bytes, self._results(memory))

    def host(self, capacity: int, memory: Memory) -> int:
        """The host loop, which makes a larger basis by a copy when one is full and may grow."""
        sizes = host_driver.capacities(capacity, self._width, memory, self._op.struct)
        state, layout = self._state(capacity, memory), run_layout(self._op, memory)
        before = num_bytes(self._state(sizes[-2], memory)) if len(sizes) > 1 else 0
        operand = self._operand if layout is None else layout.row_shapes(self._operand)
        update = num_bytes(operand) + _analysis(host_driver._update.lower(state, operand)).temp_size_in_bytes
        return self._resident + num_bytes(state) + max(before, update, self._apply(operand), self._results(memory))

    def offloaded(self) -> int:
        """The device's part while the basis is on the host."""
        results = self._num_results * self._vector_bytes
        return self._resident + max(self._vector_bytes + self._apply(self._operand), results)

    def without_basis(self, compiled: bool) -> int:
        """The three-term recurrence."""
        if compiled:
            keys = jax.eval_shape(lambda: recurrence.probe_keys(jax.random.key(0), 1))
            options = {"num_steps": self._num_steps, "layout": layout_of(self._op.struct)}
            found = _analysis(rules._compiled.lower(self._op, keys, None, reorthogonalize=False, **options))
            return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        numbers: Any = jax.ShapeDtypeStruct((self._num_steps,), jnp.float32)
        count: Any = jax.ShapeDtypeStruct((), jnp.int32)
        layout = layout_of(self._op.struct)
        vector, operand = (x if layout is None else layout.row_shapes(x) for x in (self._vector, self._operand))
        state = ThreeTermState(vector, vector, numbers, numbers, count)
        update = _analysis(recurrence._update.lower(state, operand, three_term_update)).temp_size_in_bytes
        return self._resident + num_bytes(state) + max(num_bytes(operand) + update, self._apply(operand))

    def _several(self, num: int, memory: Memory) -> PyTree:
        """Shapes of some vectors as the run keeps them."""
        layout = run_layout(self._op, memory)
        return _several(self._vector, num) if layout is None else layout.row_shapes(self._vector, num)

    def _results(self, memory: Memory) -> int:
        return num_bytes(self._several(self._num_results, memory))

    def _state(self, capacity: int, memory: Memory) -> PyTree:
        vectors = self._several(self._width, memory)
        start = functools.partial(krylov_start, capacity=capacity, flatten=_is_whole(vectors), half=memory.half)
        state = jax.eval_shape(start, vectors, self._key)
        layout = run_layout(self._op, memory)
        if layout is None:
            return dataclasses.replace(state, vector=self._vector)
        basis = layout.row_shapes(state.basis, capacity)
        return dataclasses.replace(state, basis=basis, vector=layout.row_shapes(self._vector))

    @functools.cached_property
    def _product(self) -> PyTree:
        return jax.eval_shape(lambda op: op.linearize(), self._op)

    @functools.cached_property
    def _resident(self) -> int:
        """The operator, and what its product keeps."""
        return self._op_bytes + _analysis(driver._linearized.lower(self._op)).output_size_in_bytes

    def _apply(self, operand: PyTree) -> int:
        """One product: a copy of the vector in the operator's dtypes, the result, and all between."""
        found = _analysis(driver._apply.lower(self._product, operand))
        return num_bytes(operand) + found.output_size_in_bytes + found.temp_size_in_bytes


def _is_whole(vectors: PyTree) -> bool:
    shardings = [x.sharding for x in jax.tree.leaves(vectors)]
    return all(sharding is None or sharding.is_fully_replicated for sharding in shardings)


def _shape(x: Any, work: bool = False) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, tree.work_dtype(x.dtype) if work else x.dtype, sharding=x.sharding)


def _several(vector: PyTree, num: int) -> PyTree:
    """Shapes of some vectors, in the shardings of one."""

    def leaf(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = x.sharding
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
        return jax.ShapeDtypeStruct((num, *x.shape), x.dtype, sharding=sharding)

    return jax.tree.map(leaf, vector)


def _analysis(lowered: Any) -> Any:
    return lowered.compile().memory_analysis()
