"""Peak memory of a call, whatever it is written in: what the process holds at most above what it held before.

XLA's analysis knows whole compiled programs alone, not loops of the host, PyTorch or SciPy. The kernel knows all of
them: Linux keeps the greatest resident size of a process, and starts anew where it is told to.
"""

import ctypes
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

_CLEAR, _STATUS = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` in glibc's malloc.h."""

_LARGE, _LARGEST = 1 << 16, 1 << 25
"""Blocks from the first on are mapped while a peak is measured, those below it come of what the heap has already; the
second is what glibc's own adaptive rule ends with in a process that has freed large blocks."""

_READINGS, _PAUSE = 5, 0.01
"""Readings, seconds apart, after which what is resident is taken to fall no more."""


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Call a function and see how much memory it takes besides what is there already.

    Freed memory that the C library keeps would be used again unseen, so large blocks are mapped anew meanwhile, which
    is slower: a call is either measured or timed. Programs that are not compiled yet would count their compilation, so
    call them once before.

    Args:
        call: what to call; its outputs are waited for.

    Returns:
        Bytes, to some hundred kB; None where the system does not tell: not Linux, not glibc, an accelerator.
    """
    libc = ctypes.CDLL(None)
    if jax.default_backend() != "cpu" or not hasattr(libc, "mallopt"):
        return None
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        libc.malloc_trim(0)
        before = _settled()
        _CLEAR.write_text("5")
        jax.block_until_ready(call())
        return max(_status("VmHWM") - before, 0)
    except (OSError, KeyError):
        return None
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)


def _settled() -> int:
    """Resident bytes once they fall no more: XLA frees what a program held after its outputs are ready."""
    least, since = _status("VmRSS"), 0
    while since < _READINGS:
        time.sleep(_PAUSE)
        now = _status("VmRSS")
        least, since = (now, 0) if now < least - _LARGE else (min(now, least), since + 1)
    return least


def _status(field: str) -> int:
    """Bytes of a line of the status of the process."""
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise KeyError(field)
