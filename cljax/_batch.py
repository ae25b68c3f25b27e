"""The batch contract: every objective of this library is Σ wᵢ ℓᵢ / Σ wᵢ."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._pytree import pytree_dataclass
from cljax._typing import PyTree


@pytree_dataclass
class Batch:
    """Examples with weights; masked tokens and padding are weight 0, so that uneven batches are exact.

    Attributes:
        inputs: pytree of arrays with leading axis (n, ...), as the model takes them.
        targets: pytree of arrays with leading axis (n, ...), as the loss takes them.
        weight: None for all ones, or an array whose shape is a leading part of the losses' shape: (n,) or (n, T).
    """

    inputs: PyTree
    targets: PyTree
    weight: Any = None

    @property
    def num_examples(self) -> int:
        """Length n of the leading axis.

        Raises:
            ValueError: if the leading axes differ, are missing, or are of length 0.
        """
        leaves = jax.tree.leaves((self.inputs, self.targets, self.weight))
        sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves}
        if len(sizes) != 1 or None in sizes:
            raise ValueError(f"batch: expected one leading axis length in all arrays, got {sorted(map(str, sizes))}")
        size = sizes.pop()
        if not size:
            raise ValueError("batch: expected at least one example, got a batch of size 0")
        return int(size)


def expand_weight(weight: Any, losses: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Weights of the shape of ``losses``, in float32 at least, since half precision cannot count; None means ones.

    Args:
        weight: None or an array whose shape is a leading part of ``losses.shape``.
        losses: per-example (or per-token) losses, or their shape and dtype.

    Returns:
        An array of shape ``losses.shape``.

    Raises:
        ValueError: if the shape of ``weight`` is no leading part of that of ``losses``.
    """
    dtype = jnp.promote_types(losses.dtype, jnp.float32)
    if weight is None:
        return jnp.ones_like(losses, dtype)
    weight = jnp.asarray(weight, dtype)
    if weight.shape != losses.shape[: weight.ndim]:
        raise ValueError(f"weight: expected a leading part of the losses' shape {losses.shape}, got {weight.shape}")
    return jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (losses.ndim - weight.ndim)), losses.shape)


@functools.partial(jax.jit, inline=True)  # one program outside of jit too
def weighted_mean(losses: jax.Array, weight: Any = None) -> jax.Array:
    """Σ w ℓ / Σ w over all axes; examples of weight 0 do not count, even where their loss is not finite.

    The value, that is: a derivative is NaN where an input is, since 0 times the derivative of that example is.

    Args:
        losses: per-example losses, any shape.
        weight: None or an array whose shape is a leading part of ``losses.shape``.

    Returns:
        A scalar in the dtype of ``losses``; NaN where all weights are 0.
    """
    full = expand_weight(weight, losses)
    total = jnp.sum(full)
    # where nothing counts, 0/0 must reach the value and its derivatives
    hidden = (full == 0) & (total != 0)
    mean = jnp.sum(jnp.where(hidden, 0, full / total * losses))
    return mean.astype(losses.dtype) if jnp.issubdtype(losses.dtype, jnp.floating) else mean


def least_weight(batch: Batch) -> float | None:
    """The least weight of a batch, inside of jit too where it is known.

    Args:
        batch: any batch.

    Returns:
        The weight; None where there are no weights, or they are traced.
    """
    weight = batch.weight
    if weight is None or isinstance(weight, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    # weights on the host must not wait in the device's queue
    with jax.ensure_compile_time_eval():
        return float((jnp if isinstance(weight, jax.Array) else np).min(weight))


def no_negative_weight(batch: Batch) -> bool:
    """Whether no weight is known to be below 0; NaN is not."""
    least = least_weight(batch)
    return least is None or not least < 0


def without_masked_targets(batch: Batch) -> Batch:
    """The batch with 0 for every target of weight 0: a mask value such as −100 or NaN must not reach a derivative.

    Args:
        batch: any batch.

    Returns:
        The batch, with targets of the same shapes and dtypes.
    """
    if batch.weight is None:
        return batch
    weight = batch.weight

    def clean(x: Any) -> Any:
        return _cleaned(weight, x) if jnp.shape(x)[: jnp.ndim(weight)] == jnp.shape(weight) else x

    return Batch(batch.inputs, jax.tree.map(clean, batch.targets), weight)


@jax.jit
def _cleaned(weight: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.where(weight.reshape(weight.shape + (1,) * (targets.ndim - weight.ndim)) == 0, 0, targets)


def as_batch(batch: Any) -> Batch:
    """A checked ``Batch``: the one given, or one made of a tuple (inputs, targets) or (inputs, targets, weight).

    Args:
        batch: a ``Batch`` or a tuple.

    Returns:
        A batch of at least one example.

    Raises:
        TypeError: if ``batch`` is neither.
        ValueError: if the leading axes differ or are of length 0.
    """
    if isinstance(batch, tuple) and len(batch) in (2, 3):
        batch = Batch(*batch)
    if not isinstance(batch, Batch):
        got = type(batch).__name__
        raise TypeError(f"batch: expected a cljax.Batch, got {got}; build it as cljax.Batch(inputs, targets)")
    _ = batch.num_examples
    return without_masked_targets(batch)


@functools.partial(jax.jit, static_argnums=1)
def first_examples(batch: Batch, num: int | None) -> Batch:
    """The first ``num`` examples, all where it is None: one program, where leaf by leaf would be three."""
    return jax.tree.map(lambda x: x[:num], batch)


def pad_batch(batch: Batch, size: int) -> Batch:
    """The batch with ``size`` examples: what is missing is the first one again, with weight 0.

    Args:
        batch: n examples, at most ``size``.
        size: how many there shall be.

    Returns:
        A batch with explicit weights; NumPy arrays stay NumPy arrays.
    """
    num = batch.num_examples
    weight = np.ones(num, np.float32) if batch.weight is None else batch.weight

    def pad(x: Any, fill: bool) -> Any:
        numbers: Any = jnp if isinstance(x, jax.Array) else np
        x = numbers.asarray(x)
        tail = numbers.repeat(x[:1], size - num, axis=0)
        return numbers.concatenate([x, tail if fill else numbers.zeros_like(tail)]) if size > num else x

    inputs, targets = jax.tree.map(lambda x: pad(x, fill=True), (batch.inputs, batch.targets))
    return Batch(inputs, targets, pad(weight, fill=False))


def split_batch(batch: Batch, microbatch_size: int) -> Batch:
    """The batch as microbatches for ``lax.scan``; repeated examples of weight 0 make up what is missing.

    Example i goes to microbatch i mod ⌈n/s⌉: of a batch that is split over devices in contiguous parts, each device has
    a part of every microbatch.

    Args:
        batch: n examples.
        microbatch_size: s, at least 1; s above n counts as n.

    Returns:
        A batch with leaves (⌈n/s⌉, s, ...) and explicit weights.
    """
    num = batch.num_examples
    per = min(microbatch_size, num)
    padded = pad_batch(batch, num + -num % per)
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(per, -1, *x.shape[1:]).swapaxes(0, 1), padded)
