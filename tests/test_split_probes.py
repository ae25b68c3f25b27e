"""Stochastic estimators with parameters split over a mesh: the numbers of one device, vectors that stay split."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.communication import collectives
from cljax import curvature, spectral, tree
from cljax._layout import layout_of
from cljax.spectral import driver, recurrence, rounds, samples, three_term, xdiag, xnystrace, xtrace
from tests.oracles import tolerance
from tests.problems import SHANNON, mlp
from tests.test_collectives import placed, setting

KEY = jax.random.key(0)
SPLIT = ["leading axis", "last axis", "both axes"]
NUM, BYTES = 6, 4


def scaled(v, d):
    return jax.tree.map(jnp.multiply, v, d)


def diagonal_operator(name):
    """Products that need no communication."""
    d, _ = placed(name)
    return curvature.FunctionOperator(scaled, tree.zeros_like(d), d)


def updates(op):
    """States of a run and what comes after a product, for each estimator."""
    traces, diagonals = (importlib.import_module(f"cljax.spectral.{name}")._SCHEMES for name in ("trace", "diagonal"))
    for scheme, start, options in (
        (traces["xtrace"], xtrace.xtrace_start, (False,)),
        (traces["hutchinson"], samples.sample_start, ()),
        (traces["xnystrace"], xnystrace.nystrom_start, (False, 1e-7)),
        (diagonals["xdiag"], xdiag.xdiag_start, (False,)),
    ):
        vector = rounds.first_probe(op, KEY, "normal")
        state = start(vector, jax.random.key(1), NUM, *options)
        shardings = tuple(x.sharding for x in jax.tree.leaves(vector))
        for update in scheme.updates:
            yield rounds._update_jit, state, (update, shardings)
    probe, zeros = rounds.first_probe(op, KEY, "rademacher"), jnp.zeros(NUM)
    state = three_term.ThreeTermState(tree.zeros_like(probe), probe, zeros, zeros, jnp.zeros((), jnp.int32))
    yield recurrence._update, state, (three_term.three_term_update,)


@pytest.mark.parametrize("name", SPLIT)
def test_only_coefficients_travel(name):
    """One all-reduce for a sum over all leaves, of as many numbers as there are sums, and no vector."""
    op = diagonal_operator(name)
    product = driver.linearized(op)
    for fn, state, options in updates(op):
        found = jax.eval_shape(driver._apply, product, state.vector)
        program = fn.lower(state, found, *options).compile()
        moved = collectives(program)
        assert moved
        assert all(kind == "all-reduce" and size <= BYTES * (NUM + 3) for kind, size in moved)
        # a device has its part of a basis and of what is calculated with it, and whole small matrices
        part = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed(name)[0]))
        num_bases = 1 + hasattr(state, "images")
        assert program.memory_analysis().argument_size_in_bytes <= (num_bases * NUM + 3) * part + 1024


@pytest.mark.parametrize("name", SPLIT)
def test_the_compiled_recurrence_keeps_vectors_split(name):
    """Its sums need all devices; it had each of them calculate with whole vectors."""
    op = diagonal_operator(name)
    keys = jax.random.split(KEY, 2)
    options = {"run": three_term.three_term_run, "num_steps": NUM, "layout": layout_of(op.struct)}
    moved = collectives(recurrence._each_compiled.lower(op, keys, (), **options).compile())
    assert moved == [("all-reduce", BYTES)] * 3


@pytest.mark.parametrize("chosen", ["host", pytest.param("compiled", marks=pytest.mark.slow)])
def test_the_numbers_of_one_device(chosen):
    def both(estimate):
        ops = (curvature.gauss_newton(mlp, SHANNON, *arrays) for arrays in (placed("both axes"), setting(jnp.float32)))
        found, expected = (estimate(op) for op in ops)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(jnp.float32, 1024, scale))
        return found

    for method in ("xtrace", "hutchinson", "xnystrace"):
        both(lambda op, method=method: spectral.trace(op, KEY, method=method, max_products=8, driver=chosen).mean)
    both(lambda op: spectral.frobenius_norm(op, KEY, max_products=4, driver=chosen).mean)
    shardings = [x.sharding for x in jax.tree.leaves(placed("both axes")[0])]
    for method in ("xdiag", "hutchinson"):
        found = both(
            lambda op, method=method: spectral.diagonal(op, KEY, method=method, max_products=8, driver=chosen).mean
        )
        assert [x.sharding for x in jax.tree.leaves(found)] == shardings
    options = {"num_probes": 2, "num_steps": 5, "reorthogonalize": False, "driver": chosen}
    both(lambda op: spectral.spectral_density(op, KEY, **options).nodes)
    both(lambda op: spectral.chebyshev_density(op, KEY, num_probes=2, degree=9, bounds=(-1.0, 9.0)).chebyshev_moments)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["xtrace", "hutchinson", "xnystrace", "xdiag"])
def test_derivatives(method):
    (split, _), (alone, _) = placed("both axes"), setting(jnp.float32)

    def mean(d, like):
        op = curvature.FunctionOperator(scaled, tree.zeros_like(like), d)
        if method == "xdiag":
            found = spectral.diagonal(op, KEY, method=method, max_products=6, driver="compiled").mean
            return tree.vdot(found, tree.scattered_like(jnp.uint32(3), found))
        return spectral.trace(op, KEY, method=method, max_products=6, driver="compiled").mean

    found, expected = (jax.jit(jax.grad(mean))(d, d) for d in (split, alone))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(jnp.float32, 1024, float(jnp.abs(b).max())))


@pytest.mark.parametrize("chosen", ["host", "compiled"])
@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device(axes, chosen):
    mesh = jax.make_mesh((1,), ("data",), (axes,), devices=jax.devices()[:1])
    entries = {"a": jnp.array([1.0, 3.0, 5.0]), "b": jnp.array([2.0, 2.0])}
    entries = jax.device_put(entries, NamedSharding(mesh, PartitionSpec()))
    op = curvature.FunctionOperator(lambda v, d: jax.tree.map(jnp.multiply, d, v), entries, entries)
    assert spectral.trace(op, KEY, method="hutchinson", max_products=4, driver=chosen).mean == 13
    found = spectral.diagonal(op, KEY, max_products=4, driver=chosen).mean
    np.testing.assert_array_equal(found["a"], [1, 3, 5])
    top = spectral.extreme_eigenpairs(op, KEY, driver=chosen)
    np.testing.assert_allclose(top.values, [5], rtol=1e-5)
    directed = spectral.extreme_eigenpairs(op, KEY, driver=chosen, check=entries)
    np.testing.assert_allclose(directed.values, [5], rtol=1e-5)
    again = spectral.extreme_eigenpairs(op, KEY, driver=chosen, start=top)
    np.testing.assert_allclose(again.values, [5], rtol=1e-5)
    for basis in (True, False):
        rules = spectral.spectral_density(op, KEY, num_probes=2, num_steps=4, reorthogonalize=basis, driver=chosen)
        np.testing.assert_allclose(rules.nodes.max(), 5, rtol=1e-5)
    assert spectral.lanczos(op, KEY, 4, driver=chosen).orthogonality < 1e-5


def test_probes_of_whole_parameters_lie_on_their_mesh():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    entries = jax.device_put({"a": jnp.arange(3.0), "b": jnp.ones(2)}, whole)
    op = curvature.FunctionOperator(lambda v, d: jax.tree.map(jnp.multiply, d, v), entries, entries)
    probe = rounds.first_probe(op, KEY, "normal")
    assert jax.tree.leaves(probe)[0].sharding.is_equivalent_to(whole, 1)
