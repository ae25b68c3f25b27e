"""Weight of a node that stands for several eigenvalues: how far it reaches, and what is made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cljax import spectral
from cljax.spectral.gauss_rule import Rule, reaches, tridiagonal_rule
from cljax.spectral.spread import NARROW, mass_below, smoothed, spread_points
from tests.oracles import eps
from tests.test_density import MATRIX, MODES
from tests.test_lanczos import operator, random_symmetric


def random_rule(seed=0, rows=3, m=12):
    rng = np.random.default_rng(seed)
    nodes = np.sort(rng.normal(size=(rows, m)), axis=1)
    weights = rng.dirichlet(np.full(m, 0.5), size=rows)
    residuals = rng.exponential(0.1, size=(rows, m)) * rng.integers(0, 2, size=(rows, m))
    return nodes, weights, residuals


def reaches_written_out(nodes, weights, residuals):
    found = np.zeros((*nodes.shape, 2))
    for row, (places, shares, most) in enumerate(zip(nodes, weights, residuals)):
        for i in range(len(places)):
            for side, j in ((0, i - 1), (1, i + 1)):
                if 0 <= j < len(places):
                    gap = abs(places[j] - places[i])
                    found[row, i, side] = min(most[i], gap * shares[j] / (shares[i] + shares[j]))
    return found


def test_neighbours_share_a_gap_up_to_the_residual():
    rule = random_rule()
    got = reaches(Rule(*(jnp.asarray(x, jnp.float32) for x in rule)))
    np.testing.assert_allclose(got, reaches_written_out(*rule), atol=16 * eps(jnp.float32))
    # two cells meet and do not overlap
    assert np.all(got[:, :-1, 1] + got[:, 1:, 0] <= np.diff(rule[0], axis=1) * (1 + 1e-5))


def test_no_weight_no_gap_and_no_residual_reach_nowhere():
    rule = Rule(
        jnp.array([[0.0, 1.0, 1.0, 2.0]]), jnp.array([[0.0, 0.0, 0.5, 0.5]]), jnp.array([[1.0, 1.0, 1e-7, jnp.nan]])
    )
    got = np.asarray(reaches(rule))
    np.testing.assert_array_equal(got[0, :3], 0)  # a residual below rounding is none
    assert np.isnan(got[0, 3]).all()
    one = jax.tree.map(lambda x: x[None], tridiagonal_rule(jnp.ones(1), jnp.ones(1)))
    assert one.residuals == 1
    np.testing.assert_array_equal(reaches(one), 0)


def written_out(nodes, weights, reach, num=4000):
    """The same distribution as many points, in float64."""
    places = (np.arange(num) + 0.5) / num
    points = np.concatenate(
        [nodes[..., None] - reach[..., :1] * places, nodes[..., None] + reach[..., 1:] * places], -1
    )
    return points, np.broadcast_to(weights[..., None] / (2 * num), points.shape)


def test_mass_below_is_that_of_many_points():
    nodes, weights, residuals = random_rule()
    reach = reaches_written_out(nodes, weights, residuals)
    points, shares = written_out(nodes, weights, reach)
    grid = np.r_[-np.inf, np.linspace(-3, 3, 41), nodes[0, 0] + 1e-6, np.inf]
    exact = [[np.sum(shares[row] * (points[row] <= t)) for t in grid] for row in range(3)]
    got = mass_below(*(jnp.asarray(x, jnp.float32) for x in (nodes, weights, reach, grid)))
    np.testing.assert_allclose(got, exact, atol=3e-4)


@pytest.mark.parametrize("sigma", [1e-3, 0.03, 0.5, 20.0])
def test_smoothed_is_the_integral_of_normal_densities(sigma):
    nodes, weights, residuals = random_rule(1)
    reach = reaches_written_out(nodes, weights, residuals)
    wide = reach / sigma
    assert sigma in (1e-3, 20.0) or (np.any(wide > NARROW) and np.any((wide > 0) & (wide <= NARROW)))
    points, shares = written_out(nodes, weights, reach, 2000)
    grid = np.r_[np.linspace(-2, 2, 9), nodes[1, 3], nodes[2, 4] + reach[2, 4, 1]]
    exact = [[np.sum(shares[row] * stats.norm.pdf(t, points[row], sigma)) for t in grid] for row in range(3)]
    got = smoothed(*(jnp.asarray(x, jnp.float32) for x in (nodes, weights, reach, grid)), jnp.float32(sigma))
    np.testing.assert_allclose(got, exact, rtol=1e-3, atol=2e-4 / sigma)


def test_points_keep_the_weight_and_the_place():
    nodes, weights, residuals = random_rule(2)
    reach = reaches_written_out(nodes, weights, residuals)
    points, shares = spread_points(*(jnp.asarray(x, jnp.float32) for x in (nodes, weights, reach)), 5)
    assert points.shape == shares.shape == (3, 2 * 12 * 5)
    exact = written_out(nodes, weights, reach, 5)
    np.testing.assert_allclose(np.sort(points, axis=1), np.sort(exact[0].reshape(3, -1), axis=1), atol=1e-6)
    np.testing.assert_allclose(np.sum(points * shares, axis=1), np.sum(exact[0] * exact[1], axis=(1, 2)), atol=1e-6)


def distance(points, weights, eigenvalues):
    return stats.wasserstein_distance(np.ravel(points), eigenvalues, np.ravel(weights))


@MODES
def test_points_are_nearer_to_a_bulk_than_nodes(reorthogonalize):
    """Each of 16 nodes of a flat spectrum stands for a sixteenth of it: alone they are 1/64 of its range away."""
    eigenvalues = np.linspace(0, 1, 400)
    found = spectral.spectral_density(
        operator(random_symmetric(eigenvalues)),
        jax.random.key(0),
        num_probes=8,
        num_steps=16,
        reorthogonalize=reorthogonalize,
    )
    nodes, spread = (distance(*x, eigenvalues) for x in ((found.nodes, found.weights), found.points()))
    each = [distance(found.nodes[i], found.weights[i], eigenvalues) for i in range(8)]
    assert min(each) > 1 / 64
    assert spread < nodes
    assert spread < 0.6 / 64


@MODES
def test_converged_nodes_stay_points(reorthogonalize):
    found = spectral.spectral_density(
        operator(MATRIX), jax.random.key(0), num_probes=2, num_steps=60, reorthogonalize=reorthogonalize
    )
    outlier = (np.asarray(found.nodes) > 3.5) & (np.asarray(found.weights) > 1e-4)
    assert outlier.sum() >= 2
    assert np.all(np.asarray(found.reach)[outlier] <= 1e-4)
    inner = np.asarray(found.nodes < 1) & np.asarray(found.nodes > -1) & (np.asarray(found.weights) > 1e-3)
    assert np.median(np.asarray(found.reach)[inner]) > 1e-3


def test_ways_of_a_run_reach_the_same():
    options = {"num_probes": 2, "num_steps": 5}  # few enough to need no reorthogonalization
    runs = [
        spectral.spectral_density(operator(MATRIX), jax.random.key(3), driver=driver, reorthogonalize=kept, **options)
        for driver in ("compiled", "host")
        for kept in (True, False)
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.reach, runs[0].reach, atol=1e-3)


def test_bad_number_of_points():
    found = spectral.spectral_density(operator(MATRIX), jax.random.key(3), num_probes=2, num_steps=12)
    with pytest.raises(ValueError, match="num_points: expected an integer of at least 1"):
        found.points(0)


def test_known_pairs_are_points_and_keep_the_reach_of_others():
    options = {"num_probes": 1, "num_steps": 12, "search_steps": 24}
    found = spectral.spectral_density(operator(MATRIX), jax.random.key(0), **options)
    assert found.reach.shape == (2, found.nodes.shape[1], 2)
    places, reach, weight = (np.asarray(x) for x in (found.nodes, found.reach, found.weights))
    outlier = (places > 3.5) & (weight > 0.5 / len(MATRIX))
    assert outlier.sum() == 4
    np.testing.assert_array_equal(reach[outlier], 0)
    # what is left is a bulk: a node of weight reaches towards its neighbours, but for the ends
    bulk = (np.abs(places) < 0.8) & (weight > 1.5 / len(MATRIX))
    assert bulk.sum() >= 8
    assert np.all(reach[bulk] > 1e-3)
    np.testing.assert_allclose(found.points()[1].sum(axis=1), 1, rtol=1e-5)


def test_counts_inside_of_a_bulk_are_not_those_of_whole_nodes():
    """Eight nodes in a flat spectrum: their weights alone would make counts of steps of an eighth of it."""
    eigenvalues = np.linspace(0, 1, 400)
    op, errors = operator(random_symmetric(eigenvalues)), []
    for high in np.linspace(0.3, 0.7, 9):
        found = spectral.eigenvalue_count(op, jax.random.key(1), -np.inf, high, num_probes=60, num_steps=8)
        errors.append(found.mean - np.sum(eigenvalues <= high))
    assert np.max(np.abs(errors)) < 400 / 8 / 6
