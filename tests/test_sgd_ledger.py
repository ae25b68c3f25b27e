"""The ledger of SGD: its exact identity, its theorem, and the errors of the papers' forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import losses, theory
from tests.oracles import eps, flat, tolerance
from tests.problems import SHANNON, SQUARED, linear, mlp
from tests.test_risk_bounds import random_net

SIZE = 16


def data(seed=0, num=SIZE, outputs=3):
    rng = np.random.default_rng(seed)
    return cljax.Batch(jnp.asarray(rng.standard_normal((num, 3))), jnp.asarray(rng.integers(0, outputs, num)))


def rows(batch, index):
    return jax.tree.map(lambda x: x[jnp.asarray(index)], batch)


def run(sizes, learning_rate=0.05, num_epochs=4, optimizer=None, seed=0):
    """SGD without replacement; the report, and every step's quantities recomputed in NumPy."""
    full, params = data(seed), random_net(seed, outputs=3)
    objective = losses.objective(mlp, SHANNON)
    optimizer = optax.sgd(learning_rate) if optimizer is None else optimizer
    ledger, opt_state = theory.sgd_ledger(objective, SIZE), optimizer.init(params)
    state, steps = ledger.init(objective(params, full)), []
    enter = jax.jit(ledger.update_exact)
    gradient_fn = jax.jit(jax.value_and_grad(objective))
    rng = np.random.default_rng(seed)
    for _ in range(num_epochs):
        order = rng.permutation(SIZE)
        for start, stop in itertools.pairwise(np.cumsum([0, *sizes])):
            inside, outside = order[start:stop], np.delete(order, np.arange(start, stop))
            batch = rows(full, inside)
            loss, gradient = gradient_fn(params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            new = optax.apply_updates(params, updates)
            state = enter(state, params, new, batch, objective(new, full), loss=loss, gradient=gradient)
            change = (
                float(objective(new, rows(full, outside)) - objective(params, rows(full, outside)))
                if len(outside)
                else 0
            )
            steps.append(
                (len(inside) / SIZE, float(np.sum(flat(gradient) ** 2)), float(loss - objective(new, batch)), change)
            )
            params = new
    return ledger.report(state), np.array(steps), state


@pytest.mark.parametrize("sizes", [[1] * 16, [4] * 4, [5, 5, 5, 1], [16]], ids=str)
@pytest.mark.parametrize(
    "optimizer", [None, optax.sgd(0.05, momentum=0.9), optax.adam(0.01)], ids=["sgd", "momentum", "adam"]
)
def test_identity_and_entries(sizes, optimizer, x64):
    report, steps, _ = run(sizes, optimizer=optimizer)
    share, squared, decrease, change = steps.T
    assert report.exact
    assert abs(report.identity_residual) <= 64 * eps(jnp.float64) * np.abs(steps).sum()
    np.testing.assert_allclose(report.mean_gradient, np.average(squared, weights=share), rtol=1e-12)
    np.testing.assert_allclose(report.mean_change, change.mean(), atol=1e-12)
    np.testing.assert_allclose(report.max_change, change.max(), atol=1e-12)
    np.testing.assert_allclose(report.max_abs_change, np.abs(change).max(), atol=1e-12)
    np.testing.assert_allclose(report.min_coefficient, (decrease / squared).min(), rtol=1e-8)
    if report.min_coefficient > 0:
        assert report.mean_gradient <= report.bound * (1 + 1e-12)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_theorem_with_measured_smoothness(size, x64):
    """mean |∇R_B|² ≤ n (R_0 − R_T)/(c m T) + (n − m)/(c m) · mean D_k, and mean D ≤ max D ≤ max |D| order the forms."""
    rate = 0.05
    report, _, state = run([size] * (SIZE // size), learning_rate=rate)
    assert 0 < report.smoothness < 2 / rate
    near = report.neighbourhoods(rate, SIZE)
    first = SIZE * float(state.first_risk - state.last_risk) / (size * report.num_steps * near.coefficient)
    assert report.mean_gradient <= first + near.mean_change + 1e-12
    assert near.mean_change <= near.max_change + 1e-12 <= near.max_abs_change + 2e-12
    if size == SIZE:
        assert near.max_abs_change == near.paper == 0


def test_constants_of_the_forms():
    """1/c is 2L at α = 1/L and 8L/3 at 1/(2L); the paper's 4L is valid and looser."""
    changes = {"mean_change": 1.0, "max_change": 1.0, "max_abs_change": 1.0}
    sizes = {"num_examples": 3, "batch_size": 1}
    best = theory.neighbourhoods(smoothness=5.0, learning_rate=0.2, **sizes, **changes)
    half = theory.neighbourhoods(smoothness=5.0, learning_rate=0.1, **sizes, **changes)
    assert best.max_change == pytest.approx(best.best_step)
    assert half.max_change == pytest.approx(half.half_step)
    assert half.paper == pytest.approx(half.half_step * 1.5)
    assert np.isnan(theory.neighbourhoods(smoothness=5.0, learning_rate=0.4, **sizes, **changes).coefficient)


def test_batches_of_one_may_be_correlated(x64):
    """Two equal samples: the change off the batch is that of the batch, at batch size 1 and negative."""
    full = jax.tree.map(lambda x: jnp.concatenate([x, x]), data(num=1))
    objective = losses.objective(mlp, SHANNON)
    params, ledger = random_net(0, outputs=3), theory.sgd_ledger(objective, 2)
    batch = rows(full, [0])
    loss, gradient = jax.value_and_grad(objective)(params, batch)
    new = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    state = ledger.init(objective(params, full))
    report = ledger.report(
        ledger.update_exact(state, params, new, batch, objective(new, full), loss=loss, gradient=gradient)
    )
    np.testing.assert_allclose(report.mean_change, objective(new, batch) - loss, rtol=1e-10)
    assert report.max_change < 0


def test_sampled_changes_are_those_of_the_batch_to_come(x64):
    full, params = data(), random_net(0, outputs=3)
    objective = losses.objective(mlp, SHANNON)
    ledger, update = theory.sgd_ledger(objective, SIZE), None
    update = jax.jit(ledger.update)
    state = ledger.init(objective(params, full))
    batches = [rows(full, np.arange(i, i + 4)) for i in range(0, 16, 4)] * 3
    history = [params]
    for batch, following in itertools.pairwise(batches):
        loss, gradient = jax.value_and_grad(objective)(params, batch)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        state = update(state, params, new, batch, following, loss=loss, gradient=gradient)
        params = new
        history.append(params)
    # every step but the last knows its change
    expected = [
        float(objective(b, batches[k + 1]) - objective(a, batches[k + 1]))
        for k, (a, b) in enumerate(itertools.pairwise(history))
    ]
    report = ledger.report(state)
    assert not report.exact
    assert np.isnan([report.bound, report.identity_residual]).all()
    np.testing.assert_allclose(report.mean_change, np.mean(expected[:-1]), rtol=1e-12)
    np.testing.assert_allclose(report.max_change, np.max(expected[:-1]), rtol=1e-12)
    # with the last risk, the identity gives the exact mean of the changes off the batch
    known = ledger.report(state, objective(params, full))
    exact = []
    for k, (a, b) in enumerate(itertools.pairwise(history)):
        rest = rows(full, np.delete(np.arange(SIZE), np.arange(4 * (k % 4), 4 * (k % 4) + 4)))
        exact.append(float(objective(b, rest) - objective(a, rest)))
    np.testing.assert_allclose(known.mean_change, np.mean(exact), rtol=1e-10)
    assert known.mean_gradient <= known.bound * (1 + 1e-12)


def test_weights_are_shares(x64):
    full = data()
    weight = jnp.asarray(np.random.default_rng(1).uniform(0, 2, SIZE))
    full = cljax.Batch(full.inputs, full.targets, weight)
    objective, params = losses.objective(mlp, SHANNON), random_net(0, outputs=3)
    ledger = theory.sgd_ledger(objective, SIZE, total_weight=float(weight.sum()))
    state = ledger.init(objective(params, full))
    for start in range(0, SIZE, 4):
        batch = rows(full, np.arange(start, start + 4))
        loss, gradient = jax.value_and_grad(objective)(params, batch)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        state = ledger.update_exact(state, params, new, batch, objective(new, full), loss=loss, gradient=gradient)
        rest = rows(full, np.delete(np.arange(SIZE), np.arange(start, start + 4)))
        np.testing.assert_array_less(objective(new, rest) - objective(params, rest) - state.max_change, 1e-12)
        params = new
    assert abs(ledger.report(state).identity_residual) < 1e-14


def unit_steps(params, rates):
    """SGD on two examples of unit input and target 1, one at a time."""
    objective, full = losses.objective(linear, SQUARED), cljax.Batch(jnp.eye(2), jnp.ones((2, 1)))
    ledger = theory.sgd_ledger(objective, 2)
    state = ledger.init(objective(params, full))
    for k, rate in enumerate(rates):
        batch = rows(full, [k % 2])
        loss, gradient = jax.value_and_grad(objective)(params, batch)
        new = params - rate * gradient
        state = ledger.update_exact(state, params, new, batch, objective(new, full), loss=loss, gradient=gradient)
        params = new
    return ledger.report(state)


def test_steps_without_gradient_or_motion_have_no_ratio():
    still = unit_steps(jnp.zeros((2, 1)), [0.0, 0.25, 0.5])
    assert (still.smoothness, still.min_coefficient) == (1, 0)  # no rate, no decrease
    optimal = unit_steps(jnp.array([[1.0], [0.0]]), [0.5] * 4)
    assert (optimal.smoothness, optimal.min_coefficient, optimal.bound) == (1, 0.375, 0.3125)
    nothing = unit_steps(jnp.ones((2, 1)), [0.5])
    assert (nothing.smoothness, nothing.min_coefficient, nothing.mean_gradient) == (-np.inf, np.inf, 0)


@pytest.mark.parametrize(("start", "rate"), [(np.nan, 0.5), (np.nan, 0.0), (0.0, np.nan)])
def test_what_is_not_a_number_stays(start, rate):
    report = unit_steps(jnp.full((2, 1), start), [rate, 0.5, 0.5])
    assert np.isnan([report.smoothness, report.min_coefficient]).all()


def test_a_loss_that_is_not_a_number_stays_without_gradient():
    batch = cljax.Batch(jnp.eye(2), jnp.ones((2, 1)))
    ledger, params = theory.sgd_ledger(losses.objective(linear, SQUARED), 2), jnp.ones((2, 1))
    state = ledger.update_exact(ledger.init(0.0), params, params, batch, 0.0, loss=jnp.nan, gradient=0 * params)
    report = ledger.report(state)
    assert np.isnan([report.smoothness, report.min_coefficient]).all()


@pytest.mark.parametrize("seed", [4, 20, 22])
def test_the_whole_data_has_nothing_off_it_though_its_share_is_rounded(seed):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, 8).astype(np.float32)
    full = cljax.Batch(*(jnp.asarray(rng.standard_normal((8, k)), jnp.float32) for k in (2, 1)), jnp.asarray(weight))
    objective, params = losses.objective(linear, SQUARED), jnp.zeros((2, 1))
    ledger = theory.sgd_ledger(objective, 8, total_weight=weight.sum(dtype=float))
    loss, gradient = jax.value_and_grad(objective)(params, full)
    new = params - 0.1 * gradient
    risks = [objective(p, rows(full, rng.permutation(8))) for p in (params, new)]
    state = ledger.update_exact(ledger.init(risks[0]), params, new, full, risks[1], loss=loss, gradient=gradient)
    assert ledger.report(state).max_abs_change == 0
    # one example fewer is not the whole
    part, rest = rows(full, range(7)), rows(full, [7])
    loss, gradient = jax.value_and_grad(objective)(params, part)
    state = ledger.update_exact(ledger.init(risks[0]), params, new, part, risks[1], loss=loss, gradient=gradient)
    change = objective(new, rest) - objective(params, rest)
    scale = np.abs(risks).max() / (weight[7] / weight.sum())
    np.testing.assert_allclose(ledger.report(state).max_change, change, atol=tolerance(jnp.float32, 8, scale))


def test_batch_gradients_bound_the_energy(x64):
    """Without replacement E|∇R_B|² = |∇R|² + (n − m)/(m (n − 1)) (GE − |∇R|²), over all batches of m out of n."""
    num = 6
    full, params = data(num=num), random_net(0, outputs=3)
    objective = losses.objective(mlp, SHANNON)
    gradients = np.stack([flat(jax.grad(objective)(params, rows(full, [i]))) for i in range(num)])
    energy = float(theory.gradient_energy(mlp, SHANNON, params, full))
    np.testing.assert_allclose(energy, np.mean(np.sum(gradients**2, 1)), rtol=1e-12)
    mean = np.sum(gradients.mean(0) ** 2)
    for size in range(1, num + 1):
        batches = [gradients[list(index)].mean(0) for index in itertools.combinations(range(num), size)]
        found = np.mean([np.sum(g**2) for g in batches])
        np.testing.assert_allclose(found, mean + (num - size) / (size * (num - 1)) * (energy - mean), rtol=1e-12)
        if size < num:
            assert energy <= size * (num - 1) / (num - size) * found + 1e-12


def quadratic_run(num_steps=4000, size=2, num=4, seed=0):
    """Interpolating-free least squares, batch losses σ-convex: exact expectation over all batches of each step."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal(num)
    batches = [centers[list(index)].mean() for index in itertools.combinations(range(num), size)]
    # R_i = (θ − c_i)²/2: L = σ = 1, so α = 1/L jumps to the mean of the batch
    theta = np.array(batches)
    risk = np.mean((theta[:, None] - centers) ** 2) / 2
    least = np.mean((centers.mean() - centers) ** 2) / 2
    capacity = least - np.mean(
        [
            np.mean((centers[list(i)] - centers[list(i)].mean()) ** 2) / 2
            for i in itertools.combinations(range(num), size)
        ]
    )
    outside = lambda t, index: np.mean((t - np.delete(centers, list(index))) ** 2) / 2  # ruff: ignore[lambda-assignment]
    changes = [
        outside(centers[list(index)].mean(), index) - outside(old, index)
        for index in itertools.combinations(range(num), size)
        for old in batches
    ]
    return risk - least, max(changes), capacity


def test_e5_the_linear_rate_has_a_plus(x64):
    """With the sign as printed the limit of E R − R_* would be negative."""
    excess, change, capacity = quadratic_run()
    sizes = {"smoothness": 1.0, "strong_convexity": 1.0, "num_examples": 4, "batch_size": 2, "change": change}
    limit = theory.linear_rate_limit(**sizes, capacity=capacity)
    assert 0 < excess <= limit
    printed = -(4 - 2) * change / 2 - capacity
    assert printed < 0 < excess


def test_e6_the_threshold_is_of_the_squared_gradient(x64):
    """n (R_0 − R_*) / (c m ε²) steps at α = 1/L are 2L n gap / (m ε²); a threshold of ε for |∇|² would need fewer."""
    sizes = {"smoothness": 4.0, "learning_rate": 0.25, "num_examples": 10, "batch_size": 2, "risk_gap": 1.0}
    assert theory.num_steps_to(0.01, **sizes) == pytest.approx(2 * 4.0 * 10 / (2 * 0.01))
    # one quadratic L θ²/2 with full batches at α = 1/(10 L): the count suffices for ε², and the count of ε does not
    slow = sizes | {"learning_rate": 0.025, "num_examples": 1, "batch_size": 1, "risk_gap": 2.0}
    gradients = 4.0 * 0.9 ** np.arange(10**6)
    for target in (1e-2, 1e-4):
        count = int(np.ceil(theory.num_steps_to(target, **slow)))
        assert np.mean(gradients[:count] ** 2) <= target
    assert np.mean(gradients[: int(theory.num_steps_to(1e-2, **slow))] ** 2) > 1e-4
    assert theory.num_steps_to(0.1, **(sizes | {"learning_rate": 0.5})) == np.inf


def test_energy_split_of_conflicting_labels(x64):
    """(2j), dense: GE = E|g_X|² + E tr(A_X Cov(Y|X)), and (2i) must not use GE."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((3, 3))[[0, 0, 0, 1, 1, 2]]
    batch = cljax.Batch(jnp.asarray(inputs), jnp.asarray([0, 1, 1, 2, 0, 1]))
    groups, params = theory.group_ids(inputs), random_net(3, outputs=3)
    found = theory.gradient_energy_split(mlp, SHANNON, params, batch, groups)
    energy = float(theory.gradient_energy(mlp, SHANNON, params, batch))
    np.testing.assert_allclose(found.total, energy, rtol=1e-12)
    assert abs(found.residual) <= 64 * eps(jnp.float64) * energy
    from cljax import curvature

    blocks = np.asarray(curvature.structure_matrix(mlp, params, batch.inputs))
    onehot = np.eye(3)[np.asarray(batch.targets)]
    noise = 0.0
    for g in np.unique(groups):
        members = groups == g
        noise += members.mean() * np.trace(blocks[members][0] @ np.cov(onehot[members].T, bias=True))
    np.testing.assert_allclose(found.noise_part, noise, rtol=1e-12)
    assert found.noise_part > 0
    alone = theory.gradient_energy_split(mlp, SHANNON, params, batch, np.arange(6))
    np.testing.assert_allclose(alone.mean_part, energy, rtol=1e-12)
    assert alone.noise_part == 0


EMPTY = theory.sgd_ledger(linear, 3)
PAIR = (jnp.ones((2, 1)),) * 2
SIZES = {"smoothness": 1.0, "learning_rate": 1.0, "num_examples": 1, "batch_size": 1}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.sgd_ledger(linear, 0), ValueError, "num_examples"),
        (lambda: theory.sgd_ledger([], 3), TypeError, "objective_fn: expected a hashable"),
        (lambda: theory.sgd_ledger(linear, 3, total_weight=0), ValueError, "total_weight"),
        (lambda: EMPTY.report(EMPTY.init()), ValueError, "at least one step"),
        (lambda: theory.gradient_energy_split(linear, SQUARED, jnp.ones((1, 1)), PAIR, [0]), ValueError, "groups"),
        (lambda: theory.num_steps_to(0, risk_gap=1, **SIZES), ValueError, "target"),
        (lambda: theory.num_steps_to(1, risk_gap=-1, **SIZES), ValueError, "risk_gap"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
