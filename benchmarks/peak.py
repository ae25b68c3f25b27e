"""Peak memory of a call, whatever it is written in: what the process holds at most above what it held before.

XLA's analysis knows whole compiled programs alone, not loops of the host, PyTorch or SciPy. The kernel knows all of
them: Linux keeps the greatest resident size of a process, and starts anew where it is told to.
"""

import contextlib
import ctypes
import pathlib
import time
from collections.abc import Callable, Generator
from typing import Any

import jax

_CLEAR, _STATUS = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` in glibc's malloc.h."""

_LARGE, _LARGEST = 1 << 16, 1 << 25
"""Blocks from the first on are mapped inside of ``anew``, those below it come of what the heap has already; the second
is what glibc's own adaptive rule ends with in a process that has freed large blocks."""

_READINGS, _PAUSE = 5, 0.01
"""Readings, seconds apart, after which what is resident is taken to fall no more."""


@contextlib.contextmanager
def anew() -> Generator[None]:
    """Large blocks come from the system meanwhile, not out of what the C library has kept of freed ones, unseen.

    That is slower: a call is either measured or timed. Nothing happens with another C library than glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        libc.malloc_trim(0)
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)


def resident_bytes() -> int:
    """Resident bytes once they fall no more, as XLA frees what a program held after its outputs are ready.

    Returns:
        Bytes, 0 where the system does not tell.
    """
    least, since = _status("VmRSS"), 0
    while least and since < _READINGS:
        time.sleep(_PAUSE)
        now = _status("VmRSS")
        least, since = (now, 0) if now < least - _LARGE else (min(now, least), since + 1)
    return least


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Call a function and see how much memory it takes besides what is there already.

    Programs that are not compiled yet would count their compilation, so call them once before.

    Args:
        call: what to call; its outputs are waited for.

    Returns:
        Bytes, to some hundred kB; None where the system does not tell: not Linux, not glibc, an accelerator.
    """
    if jax.default_backend() != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return None
    with anew():
        before = resident_bytes()
        try:
            _CLEAR.write_text("5")
        except OSError:
            return None
        jax.block_until_ready(call())
        return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    """Bytes of a line of the status of the process, 0 where there is none."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    return 0
