"""How fast a device works: what turns operations and bytes into seconds."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cljax._checks import check_positive_int


@dataclasses.dataclass(frozen=True)
class Rates:
    """Speeds of one device; measured by ``measure_rates``, or a data sheet's.

    Attributes:
        flops: floating-point operations a second, in matrix products as the model's.
        memory: bytes a second that are read from the device's memory.
        link: bytes a second that a device sends in a sum over all devices; None where there is one device, or where it
            is not known.
    """

    flops: float
    memory: float
    link: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is not positive and finite.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (value is not None or field.name != "link") and not 0 < float(value) < math.inf:
                raise ValueError(f"{field.name}: expected a positive finite number, got {value}")


def measure_rates(*, size: int = 2048, num_bytes: int = 1 << 28, repeats: int = 5) -> Rates:
    """Measure the devices at hand: medians of runs with float32 at the highest precision, as Krylov vectors need it.

    Args:
        size: of the square matrices that are multiplied.
        num_bytes: of the array that is read, and of that which is summed over the devices.
        repeats: timed runs of each.

    Returns:
        The rates; ``link`` counts the bytes that a ring sends, 2 (D − 1) / D of the array for D devices.

    Raises:
        ValueError: if a number is below 1.
        TypeError: if a number is no integer.

    Example:
        >>> from cljax import spectral
        >>> spectral.measure_rates(size=64, num_bytes=1 << 16).flops > 0
        True
    """
    for name, value in {"size": size, "num_bytes": num_bytes, "repeats": repeats}.items():
        check_positive_int(name, value)
    square = jnp.ones((size, size), jnp.float32)
    wide = jnp.ones((16, max(num_bytes // 64, 1)), jnp.float32)
    product = _median_seconds(_multiply, (square,), repeats)
    read = _median_seconds(_read, (wide, wide[0]), repeats)
    devices = jax.devices()
    link = None
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("all",))
        split = NamedSharding(mesh, PartitionSpec("all"))
        make = jax.jit(lambda: jnp.ones((len(devices), max(num_bytes // 4, 1)), jnp.float32), out_shardings=split)
        parts = make()
        total = jax.jit(lambda x: jnp.sum(x, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
        sent = 2 * (len(devices) - 1) / len(devices) * parts.nbytes / len(devices)
        link = sent / _median_seconds(total, (parts,), repeats)
    return Rates(2 * size**3 / product, wide.nbytes / read, link)


_multiply = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
_read = jax.jit(lambda q, v: jnp.matmul(q, v, precision=jax.lax.Precision.HIGHEST))


def _median_seconds(fn: Callable[..., Any], args: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(fn(*args))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(fn(*args))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
