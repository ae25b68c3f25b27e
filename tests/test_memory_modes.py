"""Ways to keep a Krylov basis: each finds what all find, says how good it is, and takes the memory that it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral, tree
from cljax.spectral import driver
from cljax.spectral.extremes import cold_goal
from cljax.spectral.host_basis import HostBasis
from cljax.spectral.krylov import krylov_start, krylov_update
from tests.oracles import eps
from tests.test_lanczos import operator, random_symmetric

KEY = jax.random.key(0)
MATRIX = random_symmetric(np.r_[np.linspace(-1, 1, 146), 3.0, 2.5, -2.0, -1.8])
HALF = 2.0**-8
MODES = {
    "restarts": (spectral.Memory(basis_size=14), "compiled", 1),
    "bfloat16": (spectral.Memory(half=True), "compiled", 1),
    "bfloat16 block": (spectral.Memory(half=True), "host", 3),
    "offload": (spectral.Memory(offload=True), "auto", 1),
    "offload restarts": (spectral.Memory(basis_size=14, offload=True), "host", 3),
}


@pytest.mark.parametrize("name", MODES)
def test_values_and_honest_residuals(name):
    memory, chosen, block_size = MODES[name]
    tol = 1e-2 if memory.half else 1e-4
    pairs = spectral.extreme_eigenpairs(
        operator(MATRIX),
        KEY,
        num_top=2,
        num_bottom=2,
        tol=tol,
        max_products=140,
        block_size=block_size,
        memory=memory,
        driver=chosen,
    )
    values, V = np.asarray(pairs.values, float), np.asarray(pairs.vectors, float)
    residuals = np.linalg.norm(V @ MATRIX - V * values[:, None], axis=1) / np.linalg.norm(V, axis=1)
    slack = 8 * eps(jnp.float32) * np.sqrt(len(MATRIX)) * 3
    assert pairs.converged.all()
    assert np.all(residuals <= np.asarray(pairs.residual_norms) + slack)
    errors = np.abs(values - [-2.0, -1.8, 2.5, 3.0])
    assert np.all(errors <= np.asarray(pairs.residual_norms) + slack)
    assert np.all(errors <= np.asarray(pairs.value_errors) + slack)
    # rounding errors of different entries are independent: each pair of vectors loses about HALF / sqrt(n)
    working = 8 * HALF / np.sqrt(len(MATRIX)) if memory.half else 8 * eps(jnp.float32) * np.sqrt(len(MATRIX))
    assert pairs.orthogonality <= working


def test_floor_of_bfloat16():
    """Residuals stop at the rounding of the vectors and say so, however many products."""
    pairs = spectral.extreme_eigenpairs(
        operator(MATRIX), KEY, num_top=2, tol=1e-6, max_products=60, memory=spectral.Memory(half=True)
    )
    assert not pairs.converged.any()
    assert np.all(np.asarray(pairs.status) == spectral.Status.BUDGET)
    V, values = np.asarray(pairs.vectors, float), np.asarray(pairs.values, float)
    true = np.linalg.norm(V @ MATRIX - V * values[:, None], axis=1)
    assert np.all(true <= np.asarray(pairs.residual_norms))
    assert np.all(np.asarray(pairs.residual_norms) <= HALF * 3)
    assert np.all(true >= 0.1 * HALF)  # single precision would give 1e-6


@pytest.mark.parametrize("matrix", [np.eye(6), np.zeros((6, 6)), np.diag([4.0, 3.0, 2.0, 1.0])], ids=str)
def test_exhausted_spaces_on_the_host(matrix):
    op, memory = operator(matrix), spectral.Memory(offload=True)
    pairs = spectral.extreme_eigenpairs(op, KEY, num_top=2, num_bottom=1, memory=memory)
    exact = np.linalg.eigvalsh(matrix)[[0, -2, -1]]
    np.testing.assert_allclose(pairs.values, exact, atol=64 * eps(jnp.float32))
    assert pairs.num_breakdowns >= 1
    assert pairs.orthogonality <= 64 * eps(jnp.float32)


def test_warm_start_and_nan_on_the_host():
    memory = spectral.Memory(offload=True)
    cold = spectral.extreme_eigenpairs(operator(MATRIX), KEY, num_top=2, memory=memory)
    found = [
        spectral.extreme_eigenpairs(operator(1.01 * MATRIX), KEY, num_top=2, start=cold, memory=m)
        for m in (memory, spectral.Memory())
    ]
    assert found[0].num_products == found[1].num_products
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=64 * eps(jnp.float32))
    nan = spectral.extreme_eigenpairs(operator(MATRIX * np.nan), KEY, memory=memory)
    assert np.isnan(nan.values).all()
    assert nan.num_products <= 10


def test_the_device_never_holds_an_offloaded_basis():
    n, sizes = 5003, set()

    def product(v, d):
        jax.debug.callback(lambda: sizes.update(x.size for x in jax.live_arrays() if x.size and x.size % n == 0))
        return d * v

    op = curvature.FunctionOperator(product, jnp.zeros(n), jnp.linspace(0, 1, n))
    memory = spectral.Memory(offload=True)
    spectral.extreme_eigenpairs(op, KEY, tol=1e-6, max_products=30, memory=memory)
    jax.effects_barrier()
    assert sizes == {n}
    sizes.clear()
    spectral.extreme_eigenpairs(op, KEY, tol=1e-6, max_products=30, driver="host")
    jax.effects_barrier()
    assert max(sizes) > 30 * n


STRUCT = {"w": jax.ShapeDtypeStruct((4000, 4000), jnp.float32), "b": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}


def scaled(v, d):
    return jax.tree.map(jnp.multiply, v, d)


@pytest.mark.parametrize(("basis_size", "half"), [(91, False), (20, False), (91, True)])
def test_memory_of_the_compiled_loop(basis_size, half):
    """At most 1.25 times the basis, for 20 million parameters, compiled only."""
    op = curvature.FunctionOperator(scaled, STRUCT, STRUCT)
    vectors = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), STRUCT)
    goal = cold_goal(1e-3, STRUCT, num_top=2, num_bottom=1, criterion="residual", num_cold=1)
    program = driver._compiled.lower(
        op, vectors, jax.eval_shape(lambda: KEY), goal, None, num_steps=90, capacity=basis_size, flatten=True, half=half
    )
    found = program.compile().memory_analysis()
    basis = basis_size * tree.size(STRUCT) * (2 if half else 4)
    # the result of the loop has the basis
    assert basis <= found.output_size_in_bytes
    assert found.temp_size_in_bytes + found.output_size_in_bytes <= 1.25 * basis


def test_a_step_costs_its_passes_over_the_basis():
    """Beside the product: the loop's pass of 4 m n operations, as a rule once, and the band's."""
    n, m = 100_000, 41
    vectors, key = jax.ShapeDtypeStruct((1, n), jnp.float32), jax.eval_shape(lambda: KEY)
    state = jax.eval_shape(lambda v, k: krylov_start(v, k, m, True), vectors, key)
    program = jax.jit(krylov_update, donate_argnums=0).lower(state, jax.ShapeDtypeStruct((n,), jnp.float32)).compile()
    cost = program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    assert 4 * m * n <= cost["flops"] <= 4 * m * n + 80 * n
    assert program.memory_analysis().temp_size_in_bytes <= 6 * 4 * n


@pytest.mark.parametrize("flatten", [True, False])
def test_bases_in_bfloat16(flatten):
    rng = np.random.default_rng(0)
    vector = {"w": jnp.zeros((70, 90)), "b": jnp.zeros(3)}
    basis = tree.basis_zeros(vector, 6, flatten, half=True)
    rows = [jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), vector) for _ in range(6)]
    for index, row in enumerate(rows):
        basis = tree.basis_set(basis, index, row)
    rounded = [tree.basis_round(basis, row) for row in rows]
    for index, row in enumerate(rounded):
        got = tree.basis_get(basis, index, vector)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(row)))
        assert tree.norm(tree.sub(row, rows[index])) <= tree.basis_roundoff(basis) * tree.norm(rows[index])

    def flat(v):
        return np.concatenate([np.asarray(v["w"], float).reshape(-1), np.asarray(v["b"], float)])

    Q, v = np.stack([flat(row) for row in rounded]), rows[0]
    bound = 8 * eps(jnp.float32) * len(flat(v))
    np.testing.assert_allclose(tree.basis_dot(basis, v), Q @ flat(v), atol=bound)
    C = rng.standard_normal((2, 6)).astype(np.float32)
    both = tree.basis_combine(basis, jnp.asarray(C), vector)
    for index in range(2):
        np.testing.assert_allclose(flat(jax.tree.map(lambda x, i=index: x[i], both)), C[index] @ Q, atol=1e-5)
        np.testing.assert_allclose(
            flat(tree.basis_combine(basis, jnp.asarray(C[index]), vector)), C[index] @ Q, atol=1e-5
        )
    M = rng.standard_normal((6, 6)).astype(np.float32)
    for new, expected in (
        (tree.basis_recombine(basis, jnp.asarray(M)), M @ Q),
        (tree.basis_turn(basis, 2, jnp.asarray(M[:3, :3])), np.concatenate([Q[:2], M[:3, :3] @ Q[2:5], Q[5:]])),
    ):
        for index in range(6):
            found = flat(tree.basis_get(new, index, vector))
            np.testing.assert_allclose(found, expected[index], rtol=2 * HALF, atol=1e-5)


def test_refusals():
    for options in ({"offload": True}, {"basis_size": 10}):
        with pytest.raises(ValueError, match="memory: expected half without other options"):
            spectral.Memory(half=True, **options)
    with pytest.raises(ValueError, match="basis_size: expected an integer of at least 1"):
        spectral.Memory(basis_size=0)
    with pytest.raises(ValueError, match="driver: expected 'host' or 'auto' for a basis on the host"):
        spectral.extreme_eigenpairs(operator(MATRIX), KEY, memory=spectral.Memory(offload=True), driver="compiled")
    with pytest.raises(ValueError, match="driver: expected 'compiled' or 'auto' inside of jit"):
        jax.jit(lambda op: spectral.extreme_eigenpairs(op, KEY, memory=spectral.Memory(offload=True)).values)(
            operator(MATRIX)
        )


def test_what_is_not_finite_on_the_host_is_told_by_the_numbers_alone():
    basis = HostBasis(jax.ShapeDtypeStruct((4,), jnp.float32), 1, 2)
    basis.append([np.array([1, 0, 0, 0], np.float32)], 1)
    found = basis.orthogonalize(np.array([np.inf, -np.inf, 1, 1], np.float32))[1]  # 0 · ∞: warnings are errors here
    assert np.isnan(found[0])


def test_an_exhausted_space_is_told_by_the_norm_of_the_operator():
    """Products of what lies beside a low rank are rounding, however they compare with themselves."""
    op = operator(random_symmetric([3.0, 2.0, 1.0] + [0.0] * 37))
    options = {"num_top": 5, "max_products": 14}
    found, expected = (
        spectral.extreme_eigenpairs(op, KEY, driver=driver, memory=memory, **options)
        for driver, memory in (("host", spectral.Memory(offload=True)), ("compiled", spectral.Memory()))
    )
    assert found.num_products == expected.num_products
    assert found.num_breakdowns == expected.num_breakdowns >= 5
