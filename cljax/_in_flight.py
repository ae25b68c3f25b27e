"""Programs in flight at the same time, where they may not be.

On a CPU that is several devices, programs in flight share one pool of threads, as many as there are cores or devices,
and a device that waits in a collective holds one. Programs can so take the threads from each other, even those that
need each other's results: JAX 0.10 then stops for ever (measured on two cores; 0.12 did not). So loops on the host wait
there for each step, and runs for their result. On accelerators, and with one device in a process, nothing waits.
"""

from typing import Any

import jax


def landed(result: Any) -> Any:
    """A result, waited for if it lies on several CPU devices of this process.

    Args:
        result: pytree; arrays on accelerators, on one device or of a trace are not waited for.

    Returns:
        ``result``.
    """
    leaves = [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)]
    shared = [x for x in leaves if len(x.sharding.addressable_devices) > 1 and _on_cpu(x)]
    if shared:
        jax.block_until_ready(shared)
    return result


def _on_cpu(x: jax.Array) -> bool:
    return next(iter(x.devices())).platform == "cpu"
