"""Krylov runs on a mesh: the numbers of one device, what travels between devices, and what each of them holds."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cljax
from benchmarks.communication import collectives
from cljax import curvature, losses, parallel, spectral, tree
from cljax.spectral import driver, host_driver
from cljax.spectral.krylov import krylov_start
from cljax.spectral.memory import Memory
from cljax.spectral.plan_bytes import num_bytes
from tests.oracles import eps
from tests.problems import SHANNON, mlp

KEY = jax.random.key(0)
ALL = ("data", "model")
LAYOUTS = {
    "replicated": {},
    "leading axis": {"w1": P(ALL), "b1": P(ALL), "w2": P(ALL)},
    "last axis": {"w1": P(None, ALL), "b1": P(ALL)},
    "both axes": {"w1": P("data", "model"), "b1": P("model"), "w2": P("model")},
    "spread": {},
    "data, spread over model": {"w1": P("data"), "w2": P("data")},
}
NUM_SUMS = 6
"""Of a Krylov step: the coefficients in the band and in the whole basis, and a norm, which takes a maximum too."""


def memory(name, basis_size=None):
    return Memory(basis_size, sharded="spread" in name)


def setting(dtype):
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 5)}  # 5 columns over 8 devices need padding
    params = {name: jnp.asarray(rng.standard_normal(shape) / 2, dtype) for name, shape in shapes.items()}
    return params, cljax.Batch(
        jnp.asarray(rng.standard_normal((32, 8)), dtype), jnp.arange(32) % 5, jnp.ones(32, dtype)
    )


def whole_mlp(params, x):
    """Explicit sharding leaves it to the model where a weight is gathered."""
    return mlp(jax.tree.map(lambda w: jax.sharding.reshard(w, P()), params), x)


def placed(name, dtype=jnp.float32, explicit=False):
    mesh = parallel.make_mesh("data=4,model=2", explicit=explicit)
    params, batch = setting(dtype)
    places = {leaf: NamedSharding(mesh, LAYOUTS[name].get(leaf, P())) for leaf in params}
    return jax.device_put(params, places), parallel.shard_batch(batch, mesh, ALL)


def hessian(params, batch, fn=mlp):
    return curvature.hessian(losses.objective(fn, SHANNON), params, batch)


@functools.cache
def on_one_device():
    with jax.enable_x64(True):
        op = hessian(*setting(jnp.float64))
        return spectral.extreme_eigenpairs(op, KEY, num_top=2, num_bottom=1, max_products=60, memory=Memory(61))


def check(found, op, name, warm=False):
    expected, layout = on_one_device(), memory(name).layout(op.struct)
    assert (found.accurate if warm else found.converged).all()
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-10)
    size = {leaf: x.nbytes for leaf, x in found.vectors.items()}
    for leaf, x in found.vectors.items():
        assert x.shape[1:] == op.params[leaf].shape
        share = x.addressable_shards[0].data.nbytes / size[leaf]
        divided = LAYOUTS[name].get(leaf) or "spread" in name
        assert share == 1 if layout is None or not divided else share <= 1 / 2


OPTIONS = {"num_top": 2, "num_bottom": 1, "max_products": 60}
CASES = [("spread", "host"), ("both axes", "host"), ("last axis", "host"), ("leading axis", "compiled")]
SLOW = [("spread", "compiled"), ("both axes", "compiled"), ("leading axis", "host")]
SLOW += [("replicated", "host"), ("data, spread over model", "host")]


@pytest.mark.parametrize(("name", "chosen"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW])
def test_the_eigenvalues_of_one_device(name, chosen, x64):
    op = hessian(*placed(name, jnp.float64))
    found = spectral.extreme_eigenpairs(op, KEY, memory=memory(name, 61), driver=chosen, **OPTIONS)
    check(found, op, name)


def test_warm_starts_keep_their_places(x64):
    op = hessian(*placed("data, spread over model", jnp.float64))
    options = {**OPTIONS, "memory": memory("spread", 61), "tol": 1e-6}
    found = spectral.extreme_eigenpairs(op, KEY, **options)
    again = spectral.extreme_eigenpairs(op, KEY, start=found, **options)
    check(again, op, "data, spread over model", warm=True)
    assert again.num_products <= 7  # 6 are the least; with some keys one more
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(again.vectors), jax.tree.leaves(found.vectors)))


SLOW = [("replicated", "compiled"), ("both axes", "host")]


@pytest.mark.parametrize(
    ("name", "chosen"), [("spread", "host"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_explicit_meshes(name, chosen, x64):
    params, batch = placed(name, jnp.float64, explicit=True)
    with jax.set_mesh(params["w1"].sharding.mesh):
        op = hessian(params, batch, whole_mlp)
        found = spectral.extreme_eigenpairs(op, KEY, memory=memory(name, 61), driver=chosen, check=params, **OPTIONS)
        check(found, op, name)


def begin(op, name, capacity):
    layout = memory(name).layout(op.struct)
    vectors = jax.tree.map(lambda x: x[None], op.params)
    vectors = vectors if layout is None else host_driver.split(layout.put(vectors), layout)
    return host_driver._start(vectors, KEY, capacity, tree.is_replicated(vectors))


EXPLICIT = ("spread", "both axes")
SLOW = [pytest.param(name, True, marks=pytest.mark.slow) for name in LAYOUTS if name not in EXPLICIT]


@pytest.mark.parametrize(
    ("name", "explicit"), [*((name, False) for name in LAYOUTS), *((name, True) for name in EXPLICIT), *SLOW]
)
def test_what_travels(name, explicit):
    params, batch = placed(name, explicit=explicit)
    with on_mesh(params, explicit):
        what_travels(name, curvature.gauss_newton(whole_mlp if explicit else mlp, SHANNON, params, batch))


def on_mesh(params, explicit):
    return jax.set_mesh(params["w1"].sharding.mesh) if explicit else contextlib.nullcontext()


def what_travels(name, op):
    params = op.params
    gradient, capacity = 4 * tree.size(params), 11
    state = begin(op, name, capacity)
    product = driver.linearized(op)
    apply = driver._apply.lower(product, state.vector).compile()
    update = host_driver._update.lower(state, driver._apply(product, state.vector)).compile()
    sums = collectives(update)
    if name == "replicated":
        assert sums == []
    else:
        # the band's coefficients; in the loop of passes, as a rule run once, those of a pass and a norm's greatest
        # entry and sum; a norm in the branch for exhausted spaces
        assert [kind for kind, _ in sums] == ["all-reduce"] * NUM_SUMS
        assert sorted(size for _, size in sums) == [4, 4, 4, 4, 4 * 2, 4 * capacity]
    moved = collectives(apply, main_path=True)
    assert {kind for kind, _ in moved} <= {"all-reduce", "all-gather"}
    reduced = [size for kind, size in moved if kind == "all-reduce"]
    gathered = sum(size for kind, size in moved if kind == "all-gather")
    if name in ("replicated", "spread"):
        # reduced once, and the vector gathered once, with at most 7 zeros for each of 3 leaves
        assert reduced == [gradient]
        assert gathered <= (gradient + 3 * 7 * 4) * (name == "spread")
        assert gathered >= gradient * (name == "spread")
    else:
        # along each axis of the mesh at most once; weights are gathered where the model needs them, with the vector
        assert gradient <= sum(reduced) <= 2 * gradient
        assert gathered <= 3 * gradient
    after = host_driver._update(state, driver._apply(product, state.vector))
    for a, b in zip(jax.tree.leaves((after.basis, after.vector)), jax.tree.leaves((state.basis, state.vector))):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("name", EXPLICIT)
def test_no_basis_travels(name, explicit):
    """In the compiled loop and in a restart: of all that a basis holds, sums of its coefficients alone."""
    params, batch = placed(name, explicit=explicit)
    with on_mesh(params, explicit):
        op, capacity = curvature.gauss_newton(whole_mlp if explicit else mlp, SHANNON, params, batch), 41
        layout, vectors = memory(name).layout(op.struct), jax.tree.map(lambda x: x[None], op.params)
        vectors = host_driver.split(layout.put(vectors), layout)
        loop = driver._compiled.lower(op, vectors, KEY, None, None, capacity - 1, capacity, False, False).compile()
        restart = host_driver._compress.lower(begin(op, name, capacity), 3, 2).compile()
    moved, gradient = collectives(loop), 4 * tree.size(params)
    assert {kind for kind, _ in moved} == {"all-reduce", "all-gather"}
    # leaves of a vector and of the parameters are gathered where the model needs them
    assert max(size for kind, size in moved if kind == "all-gather") <= max(4 * x.size for x in params.values())
    assert sum(size for kind, size in moved if kind == "all-reduce" and size > 4 * capacity) <= 2 * gradient
    assert collectives(restart) == []


def test_a_hessian_product_reduces_once():
    params, batch = placed("spread")
    op = hessian(params, batch)
    state = begin(op, "spread", 4)
    moved = collectives(driver._apply.lower(driver.linearized(op), state.vector).compile(), main_path=True)
    (reduced,) = [size for kind, size in moved if kind == "all-reduce"]
    # a weight behind another one is in two terms, which this compiler adds after they have travelled
    assert reduced == 4 * (tree.size(params) + params["w2"].size)


SHAPES = {"w": (1000, 999), "b": (77,)}


@functools.cache
def per_device(num_devices, spread):
    """Bytes of a state of 12 places on one device, and of what a step adds."""
    mesh = parallel.make_mesh("data", devices=jax.devices()[:num_devices])
    spec = P() if spread else P("data")
    shapes = SHAPES if spread else {"w": (1000, 999)}
    struct = {n: jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec)) for n, s in shapes.items()}
    layout = Memory(sharded=spread).layout(struct)
    if layout is None:
        flat = {n: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for n, x in struct.items()}
        vector = basis = None
    else:
        flat, vector, basis = layout.row_shapes(struct, 1), layout.row_shapes(struct), layout.row_shapes(struct, 12)
    state = jax.eval_shape(
        functools.partial(krylov_start, capacity=12, flatten=True), flat, jax.eval_shape(lambda: KEY)
    )
    if layout is not None:
        fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
        state = type(state)(**{**fields, "basis": basis, "vector": vector})
    found = host_driver._update.lower(state, state.vector).compile().memory_analysis()
    held = num_bytes((state.basis, state.vector))
    # the basis, the product, and small matrices; the vector that was multiplied is not read
    assert held <= found.argument_size_in_bytes <= held + 4096
    assert found.alias_size_in_bytes >= held * 12 / 13
    return held, found.temp_size_in_bytes


@pytest.mark.parametrize("spread", [True, False])
def test_each_of_n_devices_holds_an_nth(spread):
    whole, _ = per_device(1, spread)
    for num_devices in (2, 4, 8):
        held, temporary = per_device(num_devices, spread)
        assert whole / num_devices <= held <= whole / num_devices + 13 * 4 * len(SHAPES)
        # four vectors and, in the branch for an exhausted space, a whole one that is cut
        assert temporary <= 4 * held / 13 + 4 * 1_000_000 * spread + 65536


@pytest.mark.parametrize(
    "diagonal", [(1.0,) * 6, pytest.param((4.0, 3.0, 2.0, 1.0, 1.0), marks=pytest.mark.slow)], ids=str
)
def test_padding_is_no_part_of_the_space(diagonal):
    """Five or six entries on eight devices: a space that is exhausted at once, whose least eigenvalue is not 0."""
    mesh, d = parallel.make_mesh("data=8"), jnp.asarray(diagonal)
    op = curvature.FunctionOperator(lambda v, d: d * v, *parallel.replicate((jnp.zeros(len(d)), d), mesh))
    found = spectral.extreme_eigenpairs(op, KEY, num_top=1, num_bottom=1, memory=Memory(sharded=True))
    np.testing.assert_allclose(found.values, [min(diagonal), max(diagonal)], atol=64 * eps(jnp.float32))
    assert found.num_breakdowns >= 1
    result = spectral.lanczos(op, KEY, len(d), sharded=True)
    np.testing.assert_allclose(result.basis @ result.basis.T, np.eye(len(d)), atol=64 * eps(jnp.float32))


@pytest.mark.parametrize("options", [{"basis_size": 12}, pytest.param({"half": True}, marks=pytest.mark.slow)], ids=str)
def test_restarts_and_bfloat16(options):
    mesh, n = parallel.make_mesh("data=8"), 4096 * 8 + 5
    d = jnp.linspace(0, 1, n).at[:2].set(jnp.array([2.0, 3.0]))
    op = curvature.FunctionOperator(lambda v, d: d * v, *parallel.replicate((jnp.zeros(n), d), mesh))
    kept = Memory(sharded=True, **options)
    found = spectral.extreme_eigenpairs(op, KEY, num_top=2, tol=1e-2, max_products=60, memory=kept)
    assert np.all(np.abs(found.values - np.array([2.0, 3.0])) <= found.residual_norms + 1e-5)
    assert found.vectors.addressable_shards[0].data.shape[0] == 2


def test_inside_of_jit():
    mesh, d = parallel.make_mesh("data=8"), jnp.array([1.0, 2.0, 3.0, 7.0, 5.0])
    kept = Memory(sharded=mesh)

    @jax.jit
    def greatest(w, d):
        op = curvature.FunctionOperator(_scaled, w, d)
        return spectral.extreme_eigenpairs(op, KEY, memory=kept, max_products=8).values

    np.testing.assert_allclose(
        greatest(*parallel.replicate((jnp.zeros(5), d), mesh)), [7.0], rtol=64 * eps(jnp.float32)
    )


def test_a_run_goes_on_on_another_mesh(tmp_path):
    loop = spectral.HostLoop(checkpoint=tmp_path / "run.npz")
    d = jnp.linspace(0, 1, 77)
    results = []
    for num_devices in (8, 2):
        mesh = parallel.make_mesh("data", devices=jax.devices()[:num_devices])
        op = curvature.FunctionOperator(_scaled, *parallel.replicate((jnp.zeros(77), d), mesh))
        found = spectral.extreme_eigenpairs(op, KEY, memory=Memory(sharded=True), driver=loop, max_products=12)
        results.append((found.values, found.vectors))
    for values, vectors in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        np.testing.assert_allclose(vectors, results[0][1], atol=4 * eps(jnp.float32))


def _scaled(v, d):
    return d * v


def test_refusals():
    op = curvature.FunctionOperator(_scaled, jnp.zeros(3), jnp.ones(3))
    with pytest.raises(
        ValueError, match="memory: expected parameters on a mesh with sharded=True, got none; place them"
    ):
        spectral.extreme_eigenpairs(op, KEY, memory=Memory(sharded=True))
    with pytest.raises(ValueError, match="memory: expected sharded or offload, got both"):
        Memory(sharded=True, offload=True)
    with pytest.raises(TypeError, match=r"sharded: expected a bool or a jax.sharding.Mesh, got int"):
        Memory(sharded=8)
