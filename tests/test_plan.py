"""Plans: bytes are those of the programs that run, and products are bounds for the gap that is assumed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import cljax
from cljax import curvature, losses, spectral, tree
from cljax.spectral import driver as drivers
from cljax.spectral.host_driver import capacities
from cljax.spectral.memory import ALL
from tests.problems import SHANNON, mlp
from tests.test_lanczos import operator, random_symmetric

KEY = jax.random.key(0)
OBJECTIVE = losses.objective(mlp, SHANNON)
SIZES = {"num_top": 2, "num_bottom": 1, "max_products": 60}


def arrays(width=128, n=32):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / 10, jnp.float32)

    params = {"w1": normal(784, width), "b1": normal(width), "w2": normal(width, 10)}
    return params, cljax.Batch(normal(n, 784), jnp.arange(n) % 10, jnp.ones(n))


def shapes(x):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def modes(planned):
    return {mode.name: mode for mode in planned.modes}


@pytest.fixture(scope="module")
def planned():
    params, batch = arrays()
    op = curvature.hessian(OBJECTIVE, shapes(params), shapes(batch))
    return spectral.plan(op, basis_sizes=(20, 5, 80), driver="compiled", **SIZES)


@pytest.mark.parametrize("name", ["all", "at most 20", "bfloat16"])
def test_bytes_are_those_of_the_program_that_runs(name, planned, monkeypatch):
    params, batch = arrays()
    found = []

    class Compiled:
        def __call__(self, *args):
            analysis = program.lower(*args).compile().memory_analysis()
            found.append(analysis)
            return program(*args)

    program = drivers._compiled
    monkeypatch.setattr(drivers, "_compiled", Compiled())
    op, mode = curvature.hessian(OBJECTIVE, params, batch), modes(planned)[name]
    pairs = spectral.extreme_eigenpairs(op, KEY, memory=mode.memory, driver="compiled", **SIZES)
    results = sum(x.nbytes for x in jax.tree.leaves((pairs.vectors, pairs.guards)))
    kept = found[0].argument_size_in_bytes + found[0].output_size_in_bytes
    assert mode.device_bytes == pytest.approx(kept + max(found[0].temp_size_in_bytes, results), rel=0.01)


def test_what_each_mode_saves(planned):
    by_name, vector = modes(planned), 4 * tree.size(shapes(arrays()[0]))
    assert list(by_name) == ["all", "at most 20", "on the host", "bfloat16", "none"]
    rest = by_name["none"].device_bytes
    assert rest <= 12 * vector
    assert 61 * vector <= by_name["all"].device_bytes <= 61 * vector + rest + 5 * vector
    assert 20 * vector <= by_name["at most 20"].device_bytes <= 20 * vector + rest + 5 * vector
    assert by_name["bfloat16"].device_bytes <= 0.6 * by_name["all"].device_bytes
    assert by_name["on the host"].device_bytes <= 12 * vector
    assert by_name["on the host"].host_bytes == 61 * vector
    assert [mode.num_products for mode in planned.modes] == [60] * 5
    assert planned.recommended is None  # no budget is known on CPUs
    assert {mode.fits for mode in planned.modes} == {None}


def test_the_host_loop_holds_what_is_planned():
    """Live arrays when a product is asked for, and twice a part of the basis as it grows."""
    n, sizes = 50_021, set()

    def product(v, d):
        jax.debug.callback(lambda: sizes.add(sum(x.nbytes for x in jax.live_arrays() if x.size % n == 0)))
        return d * v

    entries = jnp.linspace(0, 1, n)
    op = curvature.FunctionOperator(product, entries, entries)
    quiet = curvature.FunctionOperator(lambda v, d: d * v, shapes(entries), shapes(entries))
    planned = spectral.plan(quiet, max_products=30, basis_sizes=(20,), driver="host")
    for name in ("at most 20", "on the host"):
        mode = modes(planned)[name]
        sizes.clear()
        spectral.extreme_eigenpairs(op, KEY, tol=1e-7, max_products=30, memory=mode.memory, driver="host")
        jax.effects_barrier()
        assert max(sizes) <= mode.device_bytes <= max(sizes) + 5 * 4 * n
    grown = modes(spectral.plan(quiet, max_products=100, driver="host"))["all"]
    assert grown.device_bytes >= (32 + 101) * 4 * n


def test_a_small_basis_grows_rarely_and_a_large_one_by_no_more_than_it_needs():
    def sizes(capacity, entries, width=1, memory=ALL):
        return capacities(capacity, width, memory, jax.ShapeDtypeStruct((entries,), jnp.float32))

    assert sizes(41, 10**5) == [41]
    assert sizes(301, 8192) == [128, 301]
    assert sizes(301, 8193) == [32, 128, 301]
    assert sizes(301, 8193, width=40) == [80, 301]
    assert sizes(101, 2**16) == [32, 101]
    assert sizes(101, 10**7) == [16, 32, 64, 101]
    assert sizes(101, 10**7, memory=spectral.Memory(basis_size=101)) == [101]
    assert sizes(101, 3 * 10**6, memory=spectral.Memory(half=True)) == [32, 64, 101]
    assert sizes(12, 10**9) == [12]


def test_budget_and_recommendation():
    shape = jax.ShapeDtypeStruct((1_000_000,), jnp.float32)
    op = curvature.FunctionOperator(lambda v, d: d * v, shape, shape)
    options = {"max_products": 50, "basis_sizes": (40, 20), "driver": "compiled", "relative_gap": 0.2}
    found = {}
    for millions in (300, 190, 120, 40, 5):
        found[millions] = spectral.plan(op, budget_bytes=millions * 10**6, **options)
    names = [plan.recommended and plan.recommended.name for plan in found.values()]
    assert names == ["all", "at most 40", "at most 20", "on the host", None]
    coarse = spectral.plan(op, budget_bytes=115 * 10**6, **{**options, "basis_sizes": ()}, tol=0.02)
    assert coarse.recommended.name == "on the host"
    # with a smaller gap the restarted bases that fit would take more products than are allowed
    narrow = spectral.plan(op, budget_bytes=190 * 10**6, **{**options, "relative_gap": 0.05})
    assert narrow.recommended.name == "on the host"
    assert narrow.modes[1].fits
    assert narrow.modes[1].num_products > 50
    text = str(found[120])
    assert max(len(line) for line in text.splitlines()) <= 80
    for mode in found[120].modes:
        assert mode.name in text
    assert "at most 20" in [line[:10] for line in text.splitlines() if line.endswith("yes *")]
    assert "products (estimate)" in text


@pytest.mark.parametrize(("gap", "basis_size"), [(0.02, None), (0.1, 16)])
def test_products_are_at_most_those_of_the_bound(gap, basis_size):
    rest = np.linspace(-1, 1, 398)
    matrix = random_symmetric(np.r_[rest, 1 + 2 * gap, 1 + 4 * gap])
    op = operator(matrix)
    plan = spectral.plan(op, num_top=2, tol=1e-3, max_products=400, basis_sizes=(16,), relative_gap=gap)
    mode = modes(plan)["all" if basis_size is None else "at most 16"]
    took = spectral.extreme_eigenpairs(op, KEY, num_top=2, tol=1e-3, max_products=400, memory=mode.memory)
    assert took.converged.all()
    # a random start may have less than 1/√n of the vector; the bound is no sharper than a factor of a few
    assert mode.num_products / 4 <= took.num_products <= 1.2 * mode.num_products


def test_a_gap_below_rounding_takes_all_products():
    shape = jax.ShapeDtypeStruct((1000,), jnp.float32)
    op = curvature.FunctionOperator(lambda v, d: d * v, shape, shape)
    for gap in (1e-20, 5e-324):
        found = modes(spectral.plan(op, max_products=50, basis_sizes=(16,), relative_gap=gap, driver="compiled"))
        assert found["all"].num_products == 1000 < found["at most 16"].num_products


def test_shards_count_for_one_device():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    shape = jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    sharded = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, PartitionSpec("x")))
    for driver in ("compiled", "host"):
        whole, part = (
            modes(
                spectral.plan(
                    curvature.FunctionOperator(lambda v, d: d * v, s, s), max_products=40, basis_sizes=(), driver=driver
                )
            )
            for s in (shape, sharded)
        )
        for name in ("all", "none"):
            assert part[name].device_bytes <= 1.25 * whole[name].device_bytes / 8


def test_more_parameters_than_int32_counts():
    shape = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((3, 2**29), (3 * 2**29,))]
    op = curvature.FunctionOperator(lambda v, d: jax.tree.map(jnp.multiply, v, d), shape, shape)
    plan = spectral.plan(op, max_products=12, basis_sizes=(8,), driver="compiled")
    assert modes(plan)["all"].device_bytes >= 13 * 4 * 3 * 2**30


def test_wrong_input():
    op = operator(np.eye(60))
    batch = cljax.Batch(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
    squared = losses.objective(lambda w, x: x @ w, losses.fenchel_young(losses.squared()))
    stream = curvature.streamed(lambda batch: curvature.hessian(squared, jnp.zeros((2, 1)), batch), [batch])
    with pytest.raises(ValueError, match="op: expected an operator in memory, got a streamed one; plan that of one"):
        spectral.plan(stream)
    with pytest.raises(ValueError, match="relative_gap: expected a finite number above 0"):
        spectral.plan(op, relative_gap=0.0)
    with pytest.raises(ValueError, match="relative_gap: expected a finite number above 0"):
        spectral.plan(op, relative_gap=float("inf"))
    with pytest.raises(ValueError, match="budget_bytes: expected an integer of at least 1"):
        spectral.plan(op, budget_bytes=0)
    with pytest.raises(ValueError, match="num_top"):
        spectral.plan(op, num_top=100)
