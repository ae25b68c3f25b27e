"""Stochastic Lanczos quadrature against exact traces and the dense spectrum, with and without reorthogonalization."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature, spectral, tree
from tests.oracles import eps
from tests.test_lanczos import DRIVERS, operator, random_symmetric

EIGENVALUES = np.r_[np.linspace(-1, 1, 198), 4.0, 5.0]
MATRIX = random_symmetric(EIGENVALUES)
MODES = pytest.mark.parametrize("reorthogonalize", [True, False])


@functools.cache
def found_with(reorthogonalize, num_steps=60):
    """One run for all tests of what is read from it: long enough for ghosts."""
    return spectral.spectral_density(
        operator(MATRIX),
        jax.random.key(0),
        num_probes=30,
        num_steps=num_steps,
        reorthogonalize=reorthogonalize,
        driver="compiled",
    )


def probe_of(key, num, n=200):
    """Probe ``num`` of a run with that key, entries ±1."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num + 1))
    return np.asarray(tree.random_like(keys[num, 0], jnp.zeros(n), "rademacher"), float)


def smoothed(eigenvalues):
    kernel = np.exp(-0.5 * ((GRID[:, None] - eigenvalues) / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi))
    return kernel.mean(1)


@MODES
@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_moments_are_traces_within_their_standard_errors(reorthogonalize, driver):
    found = found_with(reorthogonalize)
    if driver == "host":
        found = spectral.spectral_density(
            operator(MATRIX), jax.random.key(5), num_steps=10, reorthogonalize=reorthogonalize, driver=driver
        )
    for power in (1, 2, 3):
        mean, error = found.moments(power)
        assert abs(mean - np.mean(EIGENVALUES**power)) <= 4 * error
    assert found.num_products == found.nodes.size
    assert found.reorthogonalized == reorthogonalize
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=32 * eps(jnp.float32))
    assert np.all(found.weights >= 0)
    assert np.all(np.diff(found.nodes, axis=1) >= 0)


@MODES
def test_one_probe_integrates_low_powers_exactly(reorthogonalize, x64):
    key = jax.random.key(0)
    found = spectral.spectral_density(
        operator(MATRIX, jnp.float64), key, num_probes=1, num_steps=4, reorthogonalize=reorthogonalize
    )
    probe = probe_of(key, 0)
    for power in range(8):
        exact = probe @ np.linalg.matrix_power(MATRIX, power) @ probe / 200
        np.testing.assert_allclose(found.moments(power)[0], exact, rtol=1e-11)
    assert np.isnan(found.moments(1)[1])
    np.testing.assert_allclose(found.integral(lambda t: t**2 - t)[0], found.moments(2)[0] - found.moments(1)[0])


def test_ghosts_share_the_weight_of_the_node_that_they_copy():
    """Without reorthogonalization the nodes are wrong as eigenvalues and right as a quadrature."""
    isolated, vectors = 5.0, np.linalg.eigh(MATRIX)[1]
    clean, ghosts = found_with(True), found_with(False)
    near = 100 * eps(jnp.float32) * isolated
    assert np.all((np.abs(clean.nodes - isolated) < near).sum(1) == 1)
    assert np.all((np.abs(ghosts.nodes - isolated) < near).sum(1) >= 3)
    for num in range(6):
        # the weight of an eigenvalue is known: its eigenvector's part in the probe
        weight = (vectors[:, -1] @ probe_of(jax.random.key(0), num)) ** 2 / 200
        for found in (clean, ghosts):
            there = np.abs(found.nodes[num] - isolated) < near
            np.testing.assert_allclose(found.weights[num][there].sum(), weight, atol=100 * eps(jnp.float32))
    # the same probes: both rules have the same moments to rounding, 5ᵖ times the error of a weight or of a node
    for power in range(1, 9):
        np.testing.assert_allclose(
            clean.moments(power)[0], ghosts.moments(power)[0], atol=100 * eps(jnp.float32) * power * isolated**power
        )


GRID, SIGMA = np.linspace(-3, 7, 101), 0.3


@MODES
def test_density_is_that_of_the_dense_spectrum_within_standard_errors(reorthogonalize):
    found = found_with(reorthogonalize)
    mean, error = found.density(GRID, SIGMA)
    # where one eigenvalue is alone its weight is a chi-square variable, too skewed for the standard error of few probes
    bulk = np.abs(GRID) < 1.5
    assert np.all(np.abs(mean - smoothed(EIGENVALUES))[bulk] <= 5 * np.asarray(error)[bulk])
    np.testing.assert_allclose(np.trapezoid(mean, GRID), 1, atol=1e-3)


def test_bands_are_quantiles_of_the_probes():
    found = found_with(True)
    nodes, weights = (np.float64(x) for x in found.points(20))
    kernel = np.exp(-0.5 * ((GRID[:, None, None] - nodes) / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi))
    each = np.sum(kernel * weights, axis=2)
    for level, shares in ((1.0, (0, 1)), (0.5, (0.25, 0.75))):
        for got, share in zip(found.density_band(GRID, SIGMA, level), shares):
            np.testing.assert_allclose(got, np.quantile(each, share, axis=1), rtol=1e-3, atol=1e-6)
    low, high = found.cumulative_band([0.0])
    assert low[0] < 0.5 < high[0]


@MODES
@pytest.mark.parametrize("num_steps", [5, 60])
def test_cumulative_lies_between_its_bounds_and_the_truth_too(num_steps, reorthogonalize):
    """For one probe the truth is the measure of the dense eigenvectors, and the bounds hold without any chance."""
    values, vectors = np.linalg.eigh(MATRIX)
    # points far from the eigenvalues as rounding goes
    grid = np.r_[-1.5, (values[:-1] + values[1:])[::10] / 2, 3.0, 4.5, 6.0]
    found = found_with(reorthogonalize, num_steps)
    for num in range(6):
        exact = (values[None] <= grid[:, None]) @ ((vectors.T @ probe_of(jax.random.key(0), num)) ** 2 / 200)
        rows = {name: getattr(found, name)[num : num + 1] for name in ("nodes", "weights", "reach")}
        one = dataclasses.replace(found, **rows)
        low, high = one.cumulative_bounds(grid)
        rounding = 200 * eps(jnp.float32)
        assert np.all(low <= exact + rounding)
        assert np.all(exact <= high + rounding)
        mean = one.cumulative(grid)[0]
        assert np.all((low <= mean + rounding) & (mean <= high + rounding))


@MODES
def test_counts_and_cumulative_within_standard_errors(reorthogonalize):
    found = found_with(reorthogonalize)
    for low, high in ((-np.inf, 0.25), (-0.5, 0.5), (2.0, np.inf)):
        mean, error = found.eigenvalue_count(low, high)
        assert abs(mean - np.sum((low < EIGENVALUES) & (high >= EIGENVALUES))) <= 4 * error
    np.testing.assert_allclose(found.eigenvalue_count(-np.inf, np.inf)[0], 200, rtol=64 * eps(jnp.float32))
    assert np.all(np.diff(found.cumulative(np.linspace(-2, 6, 50))[0]) >= 0)
    low, high = found.cumulative_bounds(np.linspace(-2, 6, 50))
    assert np.max(high - low) <= 0.08  # about two nodes out of 60 in the bulk


def test_log_density_splits_signs_and_names_the_mass_below_the_floor():
    eigenvalues = np.r_[np.zeros(100), np.full(40, 1e-3), np.full(40, -1e-2), np.full(20, 10.0)]
    found = spectral.spectral_density(
        operator(random_symmetric(eigenvalues)), jax.random.key(0), num_probes=30, num_steps=60, driver="compiled"
    )
    spectrum = found.log_density(floor=1e-4)
    assert abs(spectrum.mass_below - 0.5) <= 4 * spectrum.mass_below_error
    places = np.log10(np.asarray(spectrum.grid))
    total = np.trapezoid(np.asarray(spectrum.positive) + np.asarray(spectrum.negative), places)
    np.testing.assert_allclose(total + spectrum.mass_below, 1, atol=1e-3)
    for curve, error, size, share in (
        (spectrum.positive, spectrum.positive_error, 1e-3, 0.2),
        (spectrum.positive, spectrum.positive_error, 10.0, 0.1),
        (spectrum.negative, spectrum.negative_error, 1e-2, 0.2),
    ):
        at = np.argmin(np.abs(places - np.log10(size)))
        height = share * np.exp(-0.5 * ((places[at] - np.log10(size)) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
        assert abs(curve[at] - height) <= 4 * error[at]
    # nothing negative near 10, nothing drawn below the floor
    assert spectrum.negative[np.argmin(np.abs(places - 1))] <= 1e-6
    default = found.log_density()
    assert default.floor == 32 * eps(jnp.float32) * np.abs(found.nodes).max()
    zero = small(np.zeros((30, 30))).log_density()
    assert zero.mass_below == 1
    assert np.all(np.asarray(zero.positive) == 0)
    with pytest.raises(ValueError, match="floor: expected a positive magnitude"):
        found.log_density(floor=0.0)
    with pytest.raises(ValueError, match="sigma: expected a positive width in decades"):
        found.log_density(sigma=-1.0)


def small(matrix, key=0, reorthogonalize=True, driver="compiled"):
    """Two probes, twelve steps: one program for all matrices of one size."""
    return spectral.spectral_density(
        operator(matrix),
        jax.random.key(key),
        num_probes=2,
        num_steps=12,
        reorthogonalize=reorthogonalize,
        driver=driver,
    )


@pytest.mark.parametrize("ends", [(1.0, 4.0), (3.0, 3.0), (0.0, 0.0), (1e-30, 2e-30)])
def test_default_grid_shows_the_whole_spectrum(ends):
    found = small(np.diag(np.linspace(*ends, 30)))
    grid, sigma = found.default_grid()
    # float32 spaces the points to 1e-2 of a width where one node is far from 0
    np.testing.assert_allclose(np.trapezoid(np.float64(found.density(grid, sigma)[0]), np.float64(grid)), 1, atol=5e-3)


def test_outliers_of_the_spiked_model():
    """Papyan 2020, figure 15a: outliers θ²/(θ − 1) of diag(θ, 0) + Z Zᵀ/n, and a bulk that ends at 4."""
    n, spikes, seeds = 1000, np.array([3.0, 4.0, 5.0]), 4
    expected, outliers, edges = spikes**2 / (spikes - 1), [], []
    for seed in range(seeds):
        z = np.random.default_rng(seed).standard_normal((n, n))
        matrix = z @ z.T / n
        matrix[range(3), range(3)] += spikes
        found = spectral.spectral_density(
            operator(matrix),
            jax.random.key(0),
            num_probes=2,
            num_steps=60,
            reorthogonalize=False,
            driver="compiled",
        )
        nodes = np.asarray(found.nodes)[np.asarray(found.weights) > 1e-8]
        groups = [nodes[np.abs(nodes / value - 1) < 0.04] for value in expected]
        assert all(np.ptp(group) <= 1e-4 * group.mean() for group in groups)
        outliers.append([group.mean() for group in groups])
        edges.append(nodes[nodes < 4.25].max())
        assert sum(map(len, groups)) == (nodes > 4.25).sum()
    # for one matrix they scatter by about 1 %, n^(-1/2) as the theory says; the edge by n^(-2/3), from below
    np.testing.assert_allclose(np.mean(outliers, axis=0), expected, rtol=0.01)
    np.testing.assert_allclose(np.mean(edges), 4, rtol=2 * n ** (-2 / 3))


@MODES
@DRIVERS
@pytest.mark.parametrize(
    "eigenvalues",
    [np.full(30, 2.0), np.zeros(30), np.r_[3.0, -2.0, 1.0, np.zeros(27)]],
    ids=["identity", "zero", "low-rank"],
)
def test_early_breakdown_keeps_nodes_and_weights(eigenvalues, driver, reorthogonalize):
    check_breakdown(eigenvalues, reorthogonalize, driver)


@MODES
@pytest.mark.parametrize("eigenvalues", [np.r_[1.0, 2.0], np.r_[7.0]], ids=["two", "one"])
def test_fewer_dimensions_than_steps(eigenvalues, reorthogonalize):
    check_breakdown(eigenvalues, reorthogonalize, "compiled")


def check_breakdown(eigenvalues, reorthogonalize, driver):
    matrix, n = random_symmetric(eigenvalues), len(eigenvalues)
    found = small(matrix, 0, reorthogonalize, driver)
    assert found.nodes.shape == (2, min(12, n))
    scale = np.abs(eigenvalues).max()
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=32 * eps(jnp.float32))
    probe = probe_of(jax.random.key(0), 1, n)
    for power in (1, 2, 9):
        exact = probe @ np.linalg.matrix_power(matrix, power) @ probe / n
        got = np.sum(np.float64(found.weights[1]) * np.float64(found.nodes[1]) ** power)
        np.testing.assert_allclose(got, exact, atol=100 * power * eps(jnp.float32) * scale**power)
    # all nodes of weight are eigenvalues, and no node is outside of the spectrum
    rounding = 100 * eps(jnp.float32) * scale
    away = np.abs(np.asarray(found.nodes)[..., None] - eigenvalues).min(-1)
    assert np.all((away <= rounding) | (np.asarray(found.weights) <= 1e-9))
    assert found.nodes.min() >= eigenvalues.min() - rounding
    assert found.nodes.max() <= eigenvalues.max() + rounding


@MODES
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_operators_are_scaled_ones(size, reorthogonalize):
    matrix = random_symmetric(np.linspace(1, 2, 30))
    unit, found = small(matrix), small(size * matrix, 0, reorthogonalize)
    for a, b in zip(found.moments(1), unit.moments(1)):
        np.testing.assert_allclose(a / size, b, rtol=1e-4)  # 12 steps of rounding, small next to the gaps
    np.testing.assert_allclose(
        found.eigenvalue_count(0.0, 1.5 * size)[0], unit.eigenvalue_count(0.0, 1.5)[0], rtol=1e-3
    )


@MODES
@DRIVERS
def test_nan_stays_nan(driver, reorthogonalize):
    found = small(np.full((30, 30), np.nan), 0, reorthogonalize, driver)
    assert np.isnan(found.nodes).all()
    everything = (
        found.moments(1),
        found.cumulative([0.0]),
        found.cumulative_bounds([0.0]),
        found.density([0.0], 1.0),
        found.density_band([0.0], 1.0),
        found.eigenvalue_count(-1.0, 1.0),
    )
    assert all(np.isnan(x).all() for x in jax.tree.leaves(everything))
    assert np.isnan(found.log_density().positive).all()


def test_bad_input():
    op = operator(np.eye(3))
    with pytest.raises(ValueError, match="num_probes: expected"):
        spectral.spectral_density(op, jax.random.key(0), num_probes=0)
    with pytest.raises(ValueError, match="num_steps: expected"):
        spectral.spectral_density(op, jax.random.key(0), num_steps=0)
    found = small(np.eye(30))
    with pytest.raises(ValueError, match="sigma: expected a positive width"):
        found.density([0.0], 0.0)
    for level in (0.0, 1.5):
        with pytest.raises(ValueError, match="level: expected the share of the probes"):
            found.cumulative_band([0.0], level)
    for call in (lambda: found.density(0.5, 0.1), lambda: found.cumulative(np.zeros((2, 2)))):
        with pytest.raises(ValueError, match=r"grid: expected points of shape \(g,\)"):
            call()
    with pytest.raises(ValueError, match="low: expected an end below high"):
        found.eigenvalue_count(2.0, 0.0)
    with pytest.raises(ValueError, match="power: expected an integer of at least 0"):
        found.moments(-1)
    with pytest.raises(TypeError, match="power: expected a static integer"):
        found.moments(0.5)
    with pytest.raises(ValueError, match=r"grid: expected magnitudes \|λ\| above 0"):
        found.log_density(grid=[-1.0, 0.0, 1.0])


def times(v, d):
    return d * v


def test_three_vectors_of_memory_without_reorthogonalization():
    n = 100_000
    d = jnp.linspace(0, 1, n)

    def temp(steps, mode):
        def nodes(op, key):
            return spectral.spectral_density(op, key, num_probes=2, num_steps=steps, reorthogonalize=mode).nodes

        op = curvature.FunctionOperator(times, d, d)
        return jax.jit(nodes).lower(op, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes / d.nbytes

    few, many = temp(8, False), temp(64, False)
    # two kept vectors, the product, a copy as the loop turns, and the random bits of the probe: 7 as measured
    assert many <= 8
    # the coefficients and the tridiagonal matrix of one probe and of the other, and no vector
    assert (many - few) * d.nbytes <= 16 * 64**2 * 4
    assert temp(64, True) >= 64


@pytest.mark.parametrize(("driver", "reorthogonalize"), [("compiled", True), ("compiled", False), ("host", False)])
def test_steps_are_products_and_parameters_do_not_retrace(driver, reorthogonalize):
    traces, products = [], []

    def product(v, d):
        traces.append(1)
        jax.debug.callback(lambda _: products.append(1), v[0])
        return d * v

    d, counts = jnp.arange(1.0, 9.0), []
    for factor in (1.0, 2.0, 3.0):
        op = curvature.FunctionOperator(product, d, factor * d)
        spectral.spectral_density(
            op, jax.random.key(2), num_probes=3, num_steps=4, reorthogonalize=reorthogonalize, driver=driver
        ).nodes.block_until_ready()
        jax.effects_barrier()
        counts.append(len(traces))
    assert counts[0] == counts[2]
    assert len(products) == 3 * 12


def test_blocks_are_those_of_the_dense_matrix():
    """Eigenvalues of the principal blocks, which the whole matrix does not have."""
    matrix = random_symmetric(np.linspace(-1, 3, 8), seed=4)

    def product(v, matrix):
        flat = jnp.matmul(matrix, jnp.concatenate([v["a"], v["b"]]), precision="highest")
        return {"a": flat[:3], "b": flat[3:]}

    op = curvature.FunctionOperator(product, {"a": jnp.zeros(3), "b": jnp.zeros(5)}, jnp.asarray(matrix, jnp.float32))
    blocks = {"first": lambda path: path == "a", "all": lambda path: True}
    found = spectral.block_densities(op, jax.random.key(0), blocks, num_probes=2, reorthogonalize=False)
    assert list(found) == ["first", "all"]
    for name, dense in (("first", matrix[:3, :3]), ("all", matrix)):
        assert found[name].dimension == len(dense)
        # as many steps as dimensions: every node is an eigenvalue
        gaps = np.abs(np.asarray(found[name].nodes)[..., None] - np.linalg.eigvalsh(dense)).min(-1)
        assert gaps.max() <= 1e-3
    with pytest.raises(ValueError, match="predicate: expected it to keep at least one leaf"):
        spectral.block_densities(op, jax.random.key(0), {"none": lambda path: False})
    with pytest.raises(TypeError, match="blocks: expected a mapping"):
        spectral.block_densities(op, jax.random.key(0), [lambda path: True])
