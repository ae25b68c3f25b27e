"""Random entries from counters: each a function of a key and of its place, so that each device makes its own.

The bits are those of Threefry-2x32 with 20 rounds, as ``jax.random`` makes them, written without a loop: one operation
on all entries, which XLA's CPU backend compiles and runs faster.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_BLOCK = 2**32
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

Start = tuple[int, int]
"""High and low part of the counter of an array's first entry."""


def starts(shapes: Sequence[tuple[int, ...]]) -> list[Start]:
    """Counters for arrays that follow each other, no two entries sharing one.

    Args:
        shapes: of the arrays.

    Returns:
        The counter of the first entry of each. An array lies in one block of 2³² counters, and those of arrays of fewer
        entries all together are 0, 1, 2 and so on; an array of more entries has the rest of several blocks to itself.

    Raises:
        ValueError: if an axis has more than 2³² entries, which its counters would repeat.
    """
    found, high, low = [], 0, 0
    for shape in shapes:
        if max(shape, default=0) > _BLOCK:
            raise ValueError(f"shape: expected axes of at most {_BLOCK} entries, got {shape}; use more axes")
        size, rows = math.prod(shape), math.prod(shape[: _leading(shape)])
        if low + size > _BLOCK:
            high, low = high + 1, 0
        found.append((high, low))
        high, low = (high + rows, 0) if rows > 1 else (high, low + size)
    return found


def counters(shape: tuple[int, ...], start: Start) -> tuple[jax.Array, jax.Array]:
    """High and low part of the counters of an array, uint32, the high one a scalar where it is one number."""
    count = _leading(shape)
    high, low = _position(shape, range(count)), _position(shape, range(count, len(shape)))
    return high + jnp.uint32(start[0]), low + jnp.uint32(start[1])


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any, start: Start) -> jax.Array:
    """Entries of the standard normal distribution, by the inverse of its distribution function.

    Args:
        key: typed PRNG key.
        shape: of the array.
        dtype: floating; half precision is rounded from float32.
        start: counter of the first entry.

    Returns:
        The array.
    """
    first, second = _bits(key, shape, start)
    if jnp.dtype(dtype) == jnp.float64:
        mantissa = ((first.astype(jnp.uint64) << 32) | second.astype(jnp.uint64)) >> 12
        unit = jax.lax.bitcast_convert_type(mantissa | jnp.uint64(0x3FF0000000000000), jnp.float64) - 1
    else:
        mantissa = (first ^ second) >> 9
        unit = jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32) - 1
    least = jnp.nextafter(jnp.array(-1, unit.dtype), jnp.array(0, unit.dtype))
    uniform = jnp.maximum(least, unit * (1 - least) + least)
    return (math.sqrt(2) * jax.lax.erf_inv(uniform)).astype(dtype)


def rademacher(key: jax.Array, shape: tuple[int, ...], dtype: Any, start: Start) -> jax.Array:
    """Entries ±1 with equal probability, see ``normal``."""
    first, second = _bits(key, shape, start)
    return jnp.where((first ^ second) >> 31, jnp.array(-1, dtype), jnp.array(1, dtype))


def scattered(seed: jax.Array, shape: tuple[int, ...], dtype: Any, start: Start) -> jax.Array:
    """Entries scattered over (−1, 1) by a hash of a uint32 seed and the counters.

    Args:
        seed: uint32 scalar.
        shape: of the array.
        dtype: floating.
        start: counter of the first entry.

    Returns:
        The array.

    References:
        The mixing function is the finalizer of MurmurHash3, of the public domain.
    """
    high, place = counters(shape, start)
    place = place + (seed * jnp.uint32(0x9E3779B9) + high * jnp.uint32(0x85EBCA77))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        place = (place ^ (place >> shift)) * jnp.uint32(factor)
    mixed = (place ^ (place >> 16)).astype(jnp.int32)
    return mixed.astype(dtype) / 2.0**31


def threefry(key: tuple[jax.Array, jax.Array], high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds.

    Args:
        key: two uint32 scalars.
        high: uint32, first word of the counters.
        low: uint32, second word.

    Returns:
        Two words for each counter.

    References:
        Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 3.3.
    """
    words = (*key, key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + words[0], low + words[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x, y = x + words[(group + 1) % 3], y + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def _bits(key: jax.Array, shape: tuple[int, ...], start: Start) -> tuple[jax.Array, jax.Array]:
    words = jax.random.key_data(key)  # of other generators' keys the first two words make a key as well
    return threefry((words[0], words[1]), *counters(shape, start))


def _leading(shape: tuple[int, ...]) -> int:
    """How many axes the high part of the counter runs over: none but in arrays of over 2³² entries."""
    return next(axis for axis in range(len(shape) + 1) if math.prod(shape[axis:]) <= _BLOCK)


def _position(shape: tuple[int, ...], axes: range) -> jax.Array:
    """Number of each entry along some axes, in the order of memory."""
    found, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(axes):
        found = found + jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        stride *= shape[axis]
    return found
