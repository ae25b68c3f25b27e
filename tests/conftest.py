"""Eight fake devices, silent rank promotion forbidden, float64 only where a test asks for it."""

import gc
import os
import pathlib

import jax
import pytest

from cljax._cpu_threads import enough_threads
from tests.flags import COMPILE_FAST

_FLAGS = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # eight devices take turns on few cores: a collective may wait long for its last participant without being stuck
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    COMPILE_FAST,
]
os.environ["XLA_FLAGS"] = " ".join(_FLAGS)
enough_threads()
# programs that are traced are many small objects, hardly any of them garbage: looking for it took a sixth of the time
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_numpy_rank_promotion", "raise")


LONGEST = ("test_readme.py", "test_notebooks.py")
MAPS, MOST_MAPS = pathlib.Path("/proc/self/maps"), 40_000  # of 65,530 that Linux allows
_since_looked = 0


def pytest_collection_modifyitems(items):
    """The longest tests first: at the end one of them would leave the other workers idle."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Let go of compiled programs now and then: each holds memory maps, of which a process may have only so many."""
    global _since_looked
    _since_looked += 1
    if _since_looked >= 10:
        _since_looked = 0
        if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MOST_MAPS:
            jax.clear_caches()


@pytest.fixture
def x64():
    """Run the test in double precision."""
    with jax.enable_x64(True):
        yield
