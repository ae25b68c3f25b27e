"""Threads enough for a CPU that is several devices."""

import os
import re

_DEVICES = re.compile(r"xla_force_host_platform_device_count=(\d+)")


def enough_threads(num_devices: int = 1) -> None:
    """Let XLA have four threads for each CPU device where there are several; for a command, before JAX uses a device.

    By default devices have a thread each, or one for each core, and those that wait in a collective hold theirs: in JAX
    0.10 two collectives of one program that do not need each other can then wait for ever. ``NPROC`` goes first.

    Args:
        num_devices: how many there will be, where the environment does not say more.
    """
    asked = [os.environ.get("JAX_NUM_CPU_DEVICES", "1"), *_DEVICES.findall(os.environ.get("XLA_FLAGS", ""))]
    devices = max(num_devices, *(int(number) for number in asked if number.isdigit()))
    if devices > 1:
        os.environ.setdefault("NPROC", str(max(4 * devices, os.cpu_count() or 1)))
