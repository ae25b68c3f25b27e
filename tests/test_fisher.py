"""Fisher matrices against sums over examples and targets in float64, and against each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import cljax
from cljax import curvature, losses, tree
from tests.oracles import dense_jacobian, tolerance
from tests.problems import NAMES, problem

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(7)


def close(found, expected):
    bound = tolerance(jnp.float64, expected.size, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def dense_fisher(case, second_moment):
    """Σ (w/Σw) Jᵀ M J in NumPy, with ``second_moment(index, score)`` the (K, K) matrix M of an entry."""
    scores = np.asarray(case.apply_fn(case.params, case.batch.inputs))
    jacobian = dense_jacobian(case.apply_fn, case.params, case.batch.inputs).reshape(*scores.shape, -1)
    entries = scores.shape[:-1]
    weight = np.ones(entries) if case.batch.weight is None else np.asarray(case.batch.weight)
    weight = np.broadcast_to(weight.reshape(weight.shape + (1,) * (len(entries) - weight.ndim)), entries)
    parts = [weight[i] * jacobian[i].T @ second_moment(i, scores[i]) @ jacobian[i] for i in np.ndindex(*entries)]
    return sum(parts) / weight.sum()


def expected_moment(kind, score):
    """E[(∇Ω* − y)(∇Ω* − y)ᵀ] by a sum over all targets, or for counts up to where nothing is left."""
    k = len(score)
    if kind == "squared":
        return np.eye(k)
    if kind == "shannon":
        p = np.exp(score - score.max())
        p /= p.sum()
        return sum(p[c] * np.outer(p - np.eye(k)[c], p - np.eye(k)[c]) for c in range(k))
    if kind == "bernoulli":
        p, total = 1 / (1 + np.exp(-score)), np.zeros((k, k))
        for y in itertools.product((0, 1), repeat=k):
            y = np.array(y)
            total += np.prod(np.where(y == 1, p, 1 - p)) * np.outer(p - y, p - y)
        return total
    rate = np.exp(score)
    counts = np.arange(200)
    return np.diag([np.sum(stats.poisson.pmf(counts, r) * (r - counts) ** 2) for r in rate])


def law_of(case):
    return type(case.loss.regularizer).__name__.lower()


EXACT = [name for name in NAMES if name != "not-fenchel-young"]


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_one_is_the_expectation_over_the_model_s_own_targets(name):
    case = problem(name)
    op = curvature.fisher(case.apply_fn, case.loss, case.params, case.batch)
    close(curvature.to_dense(op), dense_fisher(case, lambda _, score: expected_moment(law_of(case), score)))


def counts_case():
    base = problem("linear-squared")
    loss = losses.fenchel_young(losses.poisson())
    return type(base)(base.apply_fn, loss, 0.5 * base.params, cljax.Batch(base.batch.inputs, base.batch.targets**2))


def test_the_exact_one_of_counts():
    case = counts_case()
    op = curvature.fisher(case.apply_fn, case.loss, case.params, case.batch)
    close(curvature.to_dense(op), dense_fisher(case, lambda _, score: expected_moment("poisson", score)))


@pytest.mark.parametrize(
    ("name", "microbatch_size"), [(name, None) for name in NAMES] + [("weighted", 3), ("tokens", 2)]
)
def test_the_empirical_one_is_the_sum_of_outer_products_of_gradients(name, microbatch_size):
    case = problem(name)
    op = curvature.fisher(
        case.apply_fn, case.loss, case.params, case.batch, kind="empirical", microbatch_size=microbatch_size
    )
    scores = case.apply_fn(case.params, case.batch.inputs)
    gradients = np.asarray(jax.grad(lambda s: case.loss(s, case.batch.targets).sum())(scores))
    dense = np.asarray(curvature.to_dense(op))
    close(dense, dense_fisher(case, lambda index, _: np.outer(gradients[index], gradients[index])))
    assert np.linalg.eigvalsh(dense)[0] >= -tolerance(jnp.float64, dense.size, np.abs(dense).max())


def sampled(case, key, num_samples=1, microbatch_size=None):
    return curvature.fisher(
        case.apply_fn,
        case.loss,
        case.params,
        case.batch,
        kind="monte_carlo",
        key=key,
        num_samples=num_samples,
        microbatch_size=microbatch_size,
    )


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("linear-squared", "logistic", "tokens")]


@pytest.mark.parametrize("name", ["weighted", "counts", *SLOW])
def test_sampled_ones_are_unbiased(name):
    case = counts_case() if name == "counts" else problem(name)
    vectors = tree.random_like(jax.random.key(1), case.params)
    draws = jax.jit(jax.vmap(lambda key: tree.vdot(vectors, sampled(case, key, 8).mv(vectors))))(
        jax.random.split(KEY, 400)
    )
    exact = curvature.fisher(case.apply_fn, case.loss, case.params, case.batch)
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - float(tree.vdot(vectors, exact @ vectors))) < 4 * error  # 4 standard errors


def test_sampled_ones_do_not_depend_on_the_microbatches_but_on_the_key():
    case = problem("weighted")
    whole = np.asarray(curvature.to_dense(sampled(case, KEY, 3)))
    close(np.asarray(curvature.to_dense(sampled(case, KEY, 3, microbatch_size=2))), whole)
    assert np.abs(np.asarray(curvature.to_dense(sampled(case, jax.random.key(8), 3))) - whole).max() > 1e-3
    assert np.linalg.eigvalsh(whole)[0] >= -tolerance(jnp.float64, whole.size, np.abs(whole).max())
    report = curvature.check_operator(sampled(case, KEY), KEY)
    assert report.ok, report.explain()


def test_equal_examples_draw_targets_of_their_own():
    case = problem("linear-squared")
    found = []
    for copies in (1, 2):
        x, y = (jnp.repeat(a[:1], copies, axis=0) for a in (case.batch.inputs, case.batch.targets))
        op = curvature.fisher(case.apply_fn, case.loss, case.params, cljax.Batch(x, y), kind="monte_carlo", key=KEY)
        found.append(np.asarray(curvature.to_dense(op)))
    assert np.linalg.matrix_rank(found[0]) == 1
    assert np.linalg.matrix_rank(found[1]) == 2


def test_arguments_are_checked():
    case = problem("weighted")
    arguments = (case.apply_fn, case.loss, case.params, case.batch)
    with pytest.raises(ValueError, match="^kind: expected one of"):
        curvature.fisher(*arguments, kind="true")
    with pytest.raises(TypeError, match="^key: expected one typed PRNG key"):
        curvature.fisher(*arguments, kind="monte_carlo")
    with pytest.raises(ValueError, match="^key: expected None with kind='exact'"):
        curvature.fisher(*arguments, key=KEY)
    with pytest.raises(ValueError, match="^num_samples: expected an integer of at least 1"):
        curvature.fisher(*arguments, kind="monte_carlo", key=KEY, num_samples=0)
    sparse = losses.fenchel_young(losses.sparsemax())
    for loss in (sparse, problem("not-fenchel-young").loss):
        with pytest.raises(ValueError, match="^loss: expected a Fenchel-Young loss of shannon"):
            curvature.fisher(case.apply_fn, loss, case.params, case.batch)


def test_one_trace_over_three_parameter_values():
    case, traces, counts = problem("softmax-mlp"), [], []

    def apply_fn(params, x):
        traces.append(1)
        return case.apply_fn(params, x)

    for factor in (1.0, 1.1, 1.2):
        params = jax.tree.map(lambda x, f=factor: f * x, case.params)
        curvature.fisher(apply_fn, case.loss, params, case.batch, kind="monte_carlo", key=KEY) @ params
        counts.append(len(traces))
    assert len(set(counts)) == 1
