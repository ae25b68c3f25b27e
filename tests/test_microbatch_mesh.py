"""Microbatches of a batch that is split over devices: the products of one device, and one sum of a gradient's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cljax
from benchmarks.communication import collectives
from cljax import curvature, losses, parallel, spectral, tree
from cljax.spectral import driver
from tests.oracles import eps
from tests.problems import SHANNON, mlp

KEY = jax.random.key(0)
BOTH = ("data", "model")
NUM, SIZE, COUNTED = 72, 20, 54
"""Nine examples on each of eight devices, three at a time; on each of four devices 18, five at a time and two left."""
SCALARS = 8
"""Bytes of the sum of the weights."""
ROUNDING = 64 * eps(jnp.float64)


def problem():
    """Uneven weights, and none on the last of four devices."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 5)}
    params = {name: jnp.asarray(rng.standard_normal(shape) / 2) for name, shape in shapes.items()}
    weight = np.where(np.arange(NUM) < COUNTED, rng.uniform(size=NUM), 0)
    return params, cljax.Batch(jnp.asarray(rng.standard_normal((NUM, 8))), jnp.arange(NUM) % 5, jnp.asarray(weight))


def placed(axes=BOTH, explicit=False, **specs):
    mesh = parallel.make_mesh("data=4,model=2", explicit=explicit)
    params, batch = problem()
    places = {name: NamedSharding(mesh, specs.get(name, P())) for name in params}
    return jax.device_put(params, places), parallel.shard_batch(batch, mesh, axes)


def like(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jax.device_put(rng.standard_normal(x.shape), x.sharding), params)


def features(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"][None])


def head(params, h):
    return h @ params["w2"]


OBJECTIVE = losses.objective(mlp, SHANNON)
CHUNKED = losses.chunked_objective(features, head, SHANNON, chunk_size=4)


def hessian(params, batch, size=SIZE, method="auto", fn=mlp):
    return curvature.hessian(losses.objective(fn, SHANNON), params, batch, method=method, microbatch_size=size)


def fisher(params, batch, size, **options):
    return curvature.fisher(mlp, SHANNON, params, batch, microbatch_size=size, **options)


OPERATORS = {
    "hessian": hessian,
    "reverse": lambda p, b, s: hessian(p, b, s, "reverse_over_reverse"),
    "differences": lambda p, b, s: hessian(p, b, s, "finite_difference"),
    "gauss_newton": lambda p, b, s: curvature.gauss_newton(mlp, SHANNON, p, b, microbatch_size=s),
    "chunked": lambda p, b, s: curvature.chunked_gauss_newton(CHUNKED, p, b, microbatch_size=s),
    "empirical": lambda p, b, s: fisher(p, b, s, kind="empirical"),
    "monte_carlo": lambda p, b, s: fisher(p, b, s, kind="monte_carlo", key=KEY, num_samples=2),
}


def compiled_product(op, v):
    """As a Krylov run compiles it."""
    return driver._apply.lower(driver.linearized(op), v).compile()


def assert_one_sum(program, size):
    """Of so many bytes, and outside of loops; beside it at most the sum of the weights."""
    kinds, sizes = zip(*collectives(program))
    assert {*kinds} == {"all-reduce"}
    assert [x for x in sizes if x > SCALARS] == [size]
    assert [x for _, x in collectives(program, main_path=True) if x > SCALARS] == [size]


def assert_same(found, expected, error=ROUNDING):
    scale = float(tree.norm(expected))
    assert float(tree.norm(jax.tree.map(lambda a, b: np.subtract(a, b), found, expected))) <= error * scale


@pytest.mark.parametrize("axes", [BOTH, "data"], ids=["all devices", "an axis"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_product_reduces_once(name, axes, x64):
    params, batch = placed(axes)
    op, v = OPERATORS[name](params, batch, SIZE), like(params)
    assert_one_sum(compiled_product(op, v), 8 * tree.size(params))
    whole, one = OPERATORS[name](*problem(), None), like(problem()[0])
    # of differences both are off by as much as they say
    error = ROUNDING if name != "differences" else 2 * float(whole.error_estimate(one))
    assert_same(op @ v, whole @ one, error)


@pytest.mark.parametrize("size", [1, 9, NUM, 10 * NUM])
def test_any_size_is_exact(size, x64):
    """Fewer examples than there are devices, and more than there are examples."""
    params, batch = placed()
    for weight in (batch.weight, None):
        batch = cljax.Batch(batch.inputs, batch.targets, weight)
        one = cljax.Batch(
            *map(np.asarray, (batch.inputs, batch.targets)), None if weight is None else np.asarray(weight)
        )
        op, whole = hessian(params, batch, size), hessian(problem()[0], one, None)
        assert_same(op @ like(params), whole @ like(problem()[0]))


def test_no_weight_is_no_number():
    params, batch = placed()
    zero = cljax.Batch(batch.inputs, batch.targets, 0 * batch.weight)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(hessian(params, zero) @ params))


def test_parameters_split_along_another_axis(x64):
    """Each device adds up its part of the parameters: half of ``w1`` travels, and activations within the axis."""
    params, batch = placed("data", w1=P(None, "model"))
    op, v = hessian(params, batch), like(params)
    product = driver.linearized(op)
    program = driver._apply.lower(product, v).compile()
    reduced = [size for kind, size in collectives(program, main_path=True) if kind == "all-reduce"]
    assert max(reduced) <= 8 * (tree.size(params) - 16 * 8 // 2)
    assert_same(op @ v, hessian(*problem(), None) @ like(problem()[0]))
    assert (op @ v)["w1"].sharding == params["w1"].sharding


def test_parameters_split_along_the_same_axis_are_never_whole(x64):
    """Each microbatch is summed into the parts, as before."""
    params, batch = placed("data", w1=P("data"))
    op, v = hessian(params, batch), like(params)
    assert op.microbatches.axes == ()
    assert_same(op @ v, hessian(*problem(), None) @ like(problem()[0]))
    # what an objective holds counts too: frozen weights, as beside adapters
    frozen = {"scale": jax.device_put(jnp.ones(8), NamedSharding(params["w1"].sharding.mesh, P("data")))}
    whole, _ = placed("data")
    op = curvature.hessian(lambda p, b, f: OBJECTIVE(p, b) * f["scale"][0], whole, batch, frozen, microbatch_size=SIZE)
    assert op.microbatches.axes == ()


@pytest.mark.parametrize("inside", [False, True])
def test_explicit_meshes(inside, x64):
    """Inside of jit too, where types tell where arrays lie."""
    params, batch = placed(explicit=True)
    v = like(params)
    with jax.set_mesh(params["w1"].sharding.mesh):
        op = hessian(params, batch)
        product = jax.jit(lambda p, b, v: hessian(p, b) @ v) if inside else jax.jit(lambda p, b, v: op @ v)
        assert_one_sum(product.lower(params, batch, v).compile(), 8 * tree.size(params))
        found = product(params, batch, v)
    assert_same(found, hessian(*problem(), None) @ like(problem()[0]))


def test_made_inside_of_jit_on_an_auto_mesh(x64):
    params, batch = placed()
    found = jax.jit(lambda p, b, v: hessian(p, b) @ v)(params, batch, like(params))
    assert_same(found, hessian(*problem(), None) @ like(problem()[0]))


def constrained(params, x):
    """A model that says where activations lie."""
    h = features(params, x)
    mesh = parallel.make_mesh("data=4,model=2")
    return head(params, jax.lax.with_sharding_constraint(h, NamedSharding(mesh, P("data"))))


def mapped(params, x):
    mesh = parallel.make_mesh("data=4,model=2")
    return jax.shard_map(mlp, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))(params, x)


@pytest.mark.parametrize("fn", [constrained, mapped])
def test_models_that_name_the_axes(fn, x64):
    params, batch = placed("data")
    found = hessian(params, batch, 16, fn=fn) @ like(params)
    assert_same(found, hessian(*problem(), None) @ like(problem()[0]))


def test_errors_of_a_model_are_its_own():
    def wrong(params, x):
        raise ArithmeticError("of the model")

    params, batch = placed()
    with pytest.raises(ArithmeticError, match="of the model"):
        _ = curvature.gauss_newton(wrong, SHANNON, params, batch, microbatch_size=SIZE) @ params


def test_blocks_and_derivatives(x64):
    params, batch = placed()
    op, whole = hessian(params, batch), hessian(*problem(), None)
    v, one = like(params), like(problem()[0])
    block, expected = (jax.tree.map(lambda x: jnp.stack([x, 2 * x, x**2]), w) for w in (v, one))
    program = jax.jit(jax.vmap(op.mv)).lower(block).compile()
    assert_one_sum(program, 3 * 8 * tree.size(params))
    assert_same(jax.vmap(op.mv)(block), jax.vmap(whole.mv)(expected))
    assert_same(op.linearize()(v), whole @ one)

    def quotient(op, v):
        return tree.vdot(v, op @ v)

    found, wanted = (jax.grad(quotient, allow_int=True)(*pair) for pair in ((op, v), (whole, one)))
    assert_same(found.params, wanted.params)
    assert_same(found.args[0].weight[:COUNTED], wanted.args[0].weight[:COUNTED])


def test_nothing_is_traced_again(x64):
    """Once for the method and once for the program, whatever the parameters; eigenvalues are those of one device."""
    traces = []

    def counted(params, x):
        traces.append(None)
        return mlp(params, x)

    params, batch = placed()
    for factor in (1.0, 1.5):
        op = hessian(tree.scale(factor, params), batch, fn=counted)
        found = spectral.extreme_eigenpairs(op, KEY, num_top=2, tol=1e-10, max_products=80)
    assert len(traces) == 2
    one = hessian(tree.scale(1.5, problem()[0]), problem()[1], None)
    expected = spectral.extreme_eigenpairs(one, KEY, num_top=2, tol=1e-10, max_products=80)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-10)
