"""Sums over microbatches, for batches too large to be differentiated at once.

Of a batch that is split over devices, each device adds up the products of its own examples, and what they have found is
added once, at the end: one sum of the size of a gradient travels for a product, not one for a microbatch. To that end
an operator looks, when it is made, at where its arrays lie, and keeps that as static data. Left to itself, the compiler
sends a sum for each microbatch; so it still does

- where parameters, or other arrays of the operator, are split over the same axes of the mesh as the batch (FSDP): a sum
  of one's own would take the whole of them on each device;
- where the operator is made of traced arrays on Auto axes, inside of ``jit``: types do not tell where these lie. Those
  on Explicit axes do; or make the operator outside and pass it;
- where the model or the objective names these axes itself, in a sharding constraint or a ``shard_map``;
- where the model calls back to the host and the mesh has further axes.

An operator whose arrays are moved to other devices, or replaced by arrays that lie otherwise, does not know of it: make
it anew there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cljax import tree
from cljax._batch import Batch, least_weight, no_negative_weight, split_batch, without_masked_targets
from cljax._checks import check_positive_int
from cljax._layout import spec_entry, spec_names
from cljax._typing import PyTree, Scalar
from cljax.curvature.program import any_equation


@dataclasses.dataclass(frozen=True)
class Microbatches:
    """How a batch is worked through; hashable, static data of an operator.

    Attributes:
        size: examples of the whole batch that are differentiated at a time, rounded up to as many on each device.
        mesh: None, or the devices over which the batch is split, each of which adds up its own examples.
        axes: of the mesh, over which the leading axis of the batch is split.
    """

    size: int
    mesh: Any = None
    axes: tuple[str, ...] = ()


def plan_microbatches(microbatch_size: int | None, batch: Any, others: PyTree) -> Microbatches | None:
    """Check a microbatch size against the batch that it divides, and see where the batch lies.

    Args:
        microbatch_size: None or a positive static integer.
        batch: what the operator has for a batch.
        others: pytree of all other arrays of the operator.

    Returns:
        None without a size, or how the batch is worked through.

    Raises:
        TypeError: if the size is no integer or ``batch`` no ``cljax.Batch``.
        ValueError: if the size is below 1, or a weight of the batch is known to be negative.
    """
    if microbatch_size is None:
        return None
    if not isinstance(batch, Batch):
        raise TypeError(
            f"microbatch_size: expected a cljax.Batch as the first argument after params, got {type(batch).__name__}; "
            "wrap inputs and targets as cljax.Batch(inputs, targets)"
        )
    if not no_negative_weight(batch):
        raise ValueError(
            "batch.weight: expected no negative weight with microbatch_size, as a microbatch whose weights cancel "
            f"has no mean, got {least_weight(batch)}; use microbatch_size=None"
        )
    return Microbatches(check_positive_int("microbatch_size", microbatch_size), *_split(batch, others))


def scan_microbatches(
    product_fn: Callable[..., PyTree], batch: Batch, microbatches: Microbatches, params: PyTree, *args: PyTree
) -> PyTree:
    """Σ_c (W_c / W) product_fn(microbatch c, params, *args), with W_c the weight of a microbatch and W of the batch.

    This is exact where ``product_fn`` is a derivative of a weighted mean, whatever the sizes and weights.

    Args:
        product_fn: maps a ``Batch``, and pytrees like ``params`` and ``args``, to a pytree like ``params``; traced
            arrays have to reach it through its arguments.
        batch: the whole batch.
        microbatches: how it is worked through.
        params: pytree of floating arrays.
        *args: pytrees of arrays.

    Returns:
        The weighted sum, accumulated in float32 at least, in the dtypes of ``params``; NaN where all weights are 0, or
        those of a microbatch cancel.
    """
    batch = without_masked_targets(batch)  # a microbatch of weight 0 gets weights of 1
    dtype = jnp.result_type(*(tree.work_dtype(x.dtype) for x in jax.tree.leaves(params)))
    weight = batch.weight
    total = jnp.asarray(batch.num_examples, dtype) if weight is None else jnp.sum(jnp.asarray(weight, dtype))

    def add_up(batch: Batch, size: int, total: Scalar, params: PyTree, args: tuple[PyTree, ...]) -> PyTree:
        def body(carry: PyTree, part: Batch) -> tuple[PyTree, None]:
            share = jnp.sum(part.weight.astype(dtype))
            # a microbatch of padding alone would be 0/0: give it weights 1 and the share 0; weights that cancel stay so
            weight = jnp.where(jnp.all(part.weight == 0), jnp.ones_like(part.weight), part.weight)
            product = product_fn(Batch(part.inputs, part.targets, weight), params, *args)
            return tree.axpy(share / total, product, carry), None

        zero = tree.to_work(tree.zeros_like(params))
        return jax.lax.scan(body, zero, split_batch(batch, size))[0]

    def on_device(batch: Batch, total: Scalar, params: PyTree, args: tuple[PyTree, ...]) -> PyTree:
        size = -(-microbatches.size // _num(microbatches))
        return jax.lax.psum(add_up(batch, size, total, params, args), microbatches.axes)

    found = None if microbatches.mesh is None else _mapped(on_device, microbatches, batch, total, params, args)
    if found is None:
        found = add_up(batch, microbatches.size, total, params, args)
    return tree.cast_like(found, params)


def _split(batch: Batch, others: PyTree) -> tuple[Any, tuple[str, ...]]:
    """The mesh and its axes over which examples are split and nothing else is; (None, ()) where that is not known."""
    of_batch, of_others = (list(map(_sharding, jax.tree.leaves(part))) for part in (batch, others))
    found = {(s.mesh, _leading(s)) for s in of_batch if isinstance(s, NamedSharding) and not s.is_fully_replicated}
    mesh, axes = found.pop() if len(found) == 1 else (None, ())
    if not axes or (_is_traced((batch, others)) and not _are_explicit(mesh, axes)):
        return None, ()
    for sharding in of_others:
        if isinstance(sharding, NamedSharding) and sharding.mesh == mesh:
            whole = not {*axes} & {*spec_names(sharding.spec)}
        else:
            whole = sharding is None or sharding.is_fully_replicated
        if not whole:
            return None, ()
    return mesh, axes


def _sharding(x: Any) -> Any:
    return jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)


def _leading(sharding: NamedSharding) -> tuple[str, ...]:
    first = spec_entry(next(iter(sharding.spec), None))
    return tuple(name for name in first if sharding.mesh.shape[name] > 1)


def _is_traced(arrays: PyTree) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays))


def _are_explicit(mesh: Any, axes: tuple[str, ...]) -> bool:
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return all(kinds[name] == AxisType.Explicit for name in axes)


def _num(microbatches: Microbatches) -> int:
    return int(np.prod([microbatches.mesh.shape[name] for name in microbatches.axes]))


def _mapped(fn: Callable[..., PyTree], microbatches: Microbatches, batch: Batch, *args: PyTree) -> PyTree | None:
    """``fn(batch, *args)`` on each device's own examples; None where a function in it names the axes itself."""
    axes, whole = microbatches.axes, PartitionSpec()
    in_specs = (PartitionSpec(axes), *(whole for _ in args))
    # models know nothing of devices, and the types of their loops nothing of what varies over them
    options: dict[str, Any] = {"axis_names": set(axes), "check_vma": False}

    def mapped(batch: Batch, *args: PyTree) -> PyTree:
        on_devices = jax.shard_map(fn, mesh=microbatches.mesh, in_specs=in_specs, out_specs=whole, **options)
        return on_devices(_placed(batch, microbatches), *args)

    try:
        program, found = jax.make_jaxpr(mapped, return_shape=True)(batch, *args)
    except Exception:  # an error of the function itself comes back without devices
        return None
    partly = {*axes} != {name for name, size in microbatches.mesh.shape.items() if size > 1}
    if any_equation(program, lambda eqn: _constrains(eqn, axes) or (partly and _calls_back(eqn))):
        return None
    leaves = jax.jit(jaxpr_as_fun(program), inline=True)(*jax.tree.leaves((batch, *args)))
    return jax.tree.unflatten(jax.tree.structure(found), leaves)


def _constrains(equation: Any, axes: tuple[str, ...]) -> bool:
    if equation.primitive.name != "sharding_constraint":
        return False
    sharding = equation.params["sharding"]
    if not isinstance(sharding, NamedSharding) or PartitionSpec.UNCONSTRAINED in sharding.spec:
        return True
    return bool({*axes} & {*spec_names(sharding.spec)})


def _calls_back(equation: Any) -> bool:
    """Whether the host gives or takes arrays, which JAX does not lower where a part of the axes is mapped."""
    return equation.primitive.name in ("pure_callback", "io_callback")


def _placed(batch: Batch, microbatches: Microbatches) -> Batch:
    """The batch with all of its arrays split; on Auto axes the compiler sees to that."""
    mesh, axes = microbatches.mesh, microbatches.axes
    if not _are_explicit(mesh, axes):
        return batch

    def put(x: Any) -> jax.Array:
        rest = tuple(jax.typeof(x).sharding.spec)[1:]
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(axes, *rest)))

    return jax.tree.map(lambda x: put(jnp.asarray(x)), batch)
