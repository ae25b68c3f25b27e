"""Peak memory of a call: that of what is known, again and again, for compiled programs and for NumPy's."""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import peak, suite
from benchmarks.estimators import Estimator
from benchmarks.tasks import Group, Task
from benchmarks.tasks.base import matrix_case

NOISE = 4 << 20
"""Bytes by which threads, pages and Python's own objects may change what is seen."""

pytestmark = pytest.mark.skipif(peak.peak_bytes(lambda: None) is None, reason="the system does not tell")


@jax.jit
def held(x):
    """All iterates of a loop, twice used, so that the program holds them."""
    found = jax.lax.scan(lambda carry, i: (carry, jnp.sin(carry + i)), x, jnp.arange(64.0))[1]
    return (found * found[::-1]).sum()


def test_of_a_compiled_program_it_is_what_xla_says():
    x = jnp.ones(400_000)
    said = held.lower(x).compile().memory_analysis().temp_size_in_bytes
    assert said >= 64 * x.nbytes
    held(x).block_until_ready()
    # what an earlier call has freed does not hide a later one; a busy machine may free it late, once
    found = [peak.peak_bytes(lambda: held(x)) for _ in range(5)]
    assert np.median(found) == pytest.approx(said, rel=0.1, abs=NOISE)


def test_of_arrays_on_the_host_it_is_their_size():
    for size in (8 << 20, 64 << 20, 8 << 20):  # a small one after a great one too
        assert peak.peak_bytes(lambda size=size: np.ones(size // 8).sum()) == pytest.approx(size, abs=NOISE)
    assert peak.peak_bytes(lambda: None) <= NOISE


def test_small_blocks_that_were_freed_count_again():
    def many():
        return len([np.ones(4000) for _ in range(1000)])  # 32 kB each

    for _ in range(3):
        assert peak.peak_bytes(many) == pytest.approx(32e6, abs=NOISE)


def test_the_heaps_of_other_threads_hide_nothing():
    """What they have freed the C library keeps, where ``malloc_trim`` does not reach."""

    def many():
        return len([np.ones(1 << 18) for _ in range(16)])  # 2 MiB each

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            assert peak.peak_bytes(lambda: pool.submit(many).result()) == pytest.approx(32 << 20, abs=NOISE)


def test_memory_that_was_there_does_not_count():
    there = np.ones(8 << 20)
    assert peak.peak_bytes(there.sum) <= NOISE


def test_other_systems_do_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "_CLEAR", tmp_path / "no" / "clear_refs")
    assert peak.peak_bytes(lambda: None) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert peak.peak_bytes(lambda: None) is None


def test_rows_have_that_of_set_up_and_run():
    def setup(request):
        product = request.scipy_operator.matvec
        kept = np.ones(4 << 20)  # 32 MiB
        return lambda seed: (product(request.start(seed)), kept - kept)[0][:1]

    case, task = matrix_case("flat", 16), Task("extremes", "", lambda _: [], None)
    chosen = [Estimator("a vector and a difference", "extremes", setup)]
    unit, row = suite.measure_group(task, Group("flat", lambda: case), case, "tiny", chosen, 1)
    assert row["peak_bytes"]["median"] == pytest.approx(64 << 20, abs=NOISE)
    assert unit["peak_bytes"]["median"] <= NOISE
    untimed = suite.measure_group(task, Group("flat", lambda: case), case, "tiny", chosen, 0)
    assert not any("peak_bytes" in row for row in untimed)
