"""The suite: counts are what was multiplied, references are right, peers that are missing are said to be missing."""

import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from benchmarks import __main__ as command_line
from benchmarks import bench_products, estimators, harness, machine, networks, report, suite, synthetic
from benchmarks.counting import Counted, Counter
from benchmarks.estimators import Estimator, NotApplicableError
from benchmarks.estimators.request import flat_product
from benchmarks.problems import Problem
from benchmarks.store import Store
from benchmarks.tasks import TASKS, Group, Task
from benchmarks.tasks.base import matrix_case
from benchmarks.tasks.density import wasserstein
from benchmarks.tasks.products import SPECS
from cljax import curvature, spectral

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu-small"
estimators.load_builtin()


def main(*arguments):
    return command_line.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLJAX_BENCHMARK_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark-cache"))


def rows_of(task, case, budget, names=None, **options):
    """Every estimator that is installed, at one budget or tolerance, counted and scored and not timed."""
    chosen = [e for e in estimators.estimators_of(task) if names is None or e.name in names]
    small = Task(task, "", lambda _: [], TASKS[task].score, {"tiny": (1e-3,)}, {"tiny": (budget,)})
    with jax.numpy_rank_promotion("allow"):  # the peers' own code relies on it
        rows = suite.measure_group(small, Group(case.name, lambda: case, options=options), case, "tiny", chosen, 0)
    assert rows[0]["status"] == "unit"
    return {row["estimator"]: row for row in rows[1:]}


def check(rows, most, counted=True):
    """What is installed ran within its budget, with an error that is at most what it is for all of them."""
    for name, row in rows.items():
        missing = row["version"] is None
        assert row["status"] in ({"missing"} if missing else {"ok", "not applicable"}), (name, row)
        if row["status"] == "ok":
            assert row["error"]["median"] <= most, (name, row)
            assert (row["products"] is None) == (not counted or name.startswith("imate")), name
    return {name for name, row in rows.items() if row["status"] == "ok"}


def test_extremes():
    rows = rows_of("extremes", matrix_case("outliers", 64), 40, num_top=2, num_bottom=0)
    # a randomized range finder has no power iteration: 20 of 64 directions
    ran = check({name: row for name, row in rows.items() if not name.startswith("skerch")}, 1e-3)
    assert {"cljax", "cljax, budget", "matfree Lanczos", "jax lobpcg_standard", "ARPACK"} <= ran
    assert rows["matfree Lanczos"]["products"] == 40
    assert 0 < rows["cljax, budget"]["products"] <= 40
    plain, jitted = (rows[f"cljax, no certificate{words}"] for words in ("", ", jitted"))
    assert jitted["products"] == plain["products"]
    np.testing.assert_allclose(jitted["error"]["median"], plain["error"]["median"], atol=1e-6)


def test_densities():
    # 40 products on 64 dimensions: one probe gives W1 of about its own noise, √(2/64) of the spread of the bulk
    ran = check(rows_of("density", matrix_case("indefinite", 64), 40), 0.15)
    assert {"cljax Lanczos, 4 probes", "cljax Chebyshev", "matfree Lanczos, 1 probe"} <= ran
    # ten outliers have all but a hundredth of the trace of 64 eigenvalues; known, none of their weights is random
    rows = rows_of("density", matrix_case("outliers", 64), 40)
    search, plain = (rows[f"cljax Lanczos, {name}"] for name in ("two thirds to search", "1 probe"))
    assert search["products"] == 40
    assert search["error"]["median"] < plain["error"]["median"] / 2


def test_traces_and_diagonals():
    case = matrix_case("exponential", 64)
    rows = rows_of("trace", case, 30)
    assert {"cljax XTrace", "cljax XNysTrace", "matfree XTrace", "cljax Hutchinson"} <= check(rows, 1.0)
    for name in ("cljax XTrace", "cljax XNysTrace", "matfree XTrace"):  # eigenvalues below 0.7¹⁵ are left
        assert rows[name]["error"]["median"] < 0.05
        assert rows[name]["products"] == 30
    rows = rows_of("diagonal", case, 30)
    assert {"cljax", "cljax XDiag", "matfree", "matfree XDiag"} <= check(rows, 1.0)
    assert rows["matfree XDiag"]["products"] == rows["cljax"]["products"] == rows["cljax XDiag"]["products"] == 30
    assert rows["cljax XDiag"]["error"]["median"] < rows["matfree XDiag"]["error"]["median"]


def test_products_and_energies():
    case = networks.network_case("mlp", "tiny")
    eps = 1e-6  # some ten roundings of float32
    assert {"cljax, in a solver", "cljax, alone"} <= check(rows_of("peer_products", case, 1, kind="hessian"), eps)
    assert {"cljax", "jax vmap(grad)"} <= check(rows_of("gradient_energy", case, 1), eps, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "transformer"])
def test_flop_targets_of_networks_with_attention(name):
    network = networks.trajectory(SPECS[name]["small"], (0,))[0]
    problem = Problem(name, {}, network.params, network.apply_fn, network.loss, network.batch)
    rows = bench_products.measure(problem, 0, operators=bench_products.TARGETS, forms=("linearized",))
    assert [row["target_met"] for row in rows] == [None, True, True]


@pytest.mark.slow
def test_tracked():
    group = TASKS["tracked"].groups("tiny")[0]
    rows = rows_of("tracked", group.make(), 20)
    assert {"cljax, warm", "cljax, cold", "ARPACK, warm", "matfree Lanczos, warm"} <= check(rows, 0.1)
    for name in ("cljax, warm, no certificate", "cljax, cold, no certificate"):
        assert rows[f"{name}, jitted"]["products"] == rows[name]["products"]
    assert rows["cljax, warm"]["products"] < rows["cljax, cold"]["products"]


def test_counts_are_of_what_runs():
    """In loops, batches and batches of batches, whatever the estimator says of itself."""
    counter = Counter()
    op = Counted(synthetic.mixed_operator(synthetic.flat(16)), counter)
    block = jnp.ones((3, 2, 16))
    jax.jit(lambda op, x: jax.vmap(jax.vmap(flat_product(op)))(x))(op, block)
    assert counter.read() == 6
    jax.jit(lambda op, v: jax.lax.fori_loop(0, 7, lambda _, v: flat_product(op)(v), v))(op, block[0, 0])
    assert counter.read() == 13
    pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=2)
    assert counter.read() == 13 + int(pairs.num_products)
    product, v = flat_product(op), block[0, 0]
    for derivative in (jax.grad(lambda v: v @ product(v)), lambda v: jax.jvp(product, (v,), (v,))):
        with pytest.raises(TypeError, match="products of a derivative are not counted"):
            derivative(v)


def test_a_claim_is_not_counted():
    def setup(request):
        product = request.scipy_operator.matvec
        return lambda seed: np.asarray([sum(product(request.start(seed))[0] for _ in range(5))])

    case = matrix_case("flat", 16)
    row = suite.measure_group(
        Task("extremes", "", lambda _: [], None),
        Group("flat", lambda: case),
        case,
        "tiny",
        [Estimator("liar", "extremes", setup)],
        0,
    )[1]
    assert row["products"] == 5


def test_what_multiplies_beside_the_counter_or_answers_in_another_shape_has_failed():
    case = matrix_case("indefinite", 16)
    exact = case.reference.wanted(2, 0)

    def row(task, answer, counted=True, **options):
        def setup(request):
            operator = request.scipy_operator
            return lambda seed: (operator.matvec(request.start(seed)) if counted else None, answer)[1]

        small = Task(task, "", lambda _: [], TASKS[task].score)
        group = Group("indefinite", lambda: case, options=options)
        return suite.measure_group(small, group, case, "tiny", [Estimator("e", task, setup)], 0)[1]

    assert row("extremes", exact, num_top=2)["status"] == "ok"
    assert "no product was counted" in row("extremes", exact, counted=False, num_top=2)["note"]
    for task, answer, words in (
        ("extremes", exact[:, None], "expected shape (2,), got (2, 1)"),
        ("extremes", exact[:1], "expected shape (2,), got (1,)"),
        ("extremes", exact[::-1], "expected ascending eigenvalues"),
        ("extremes", exact + 1j, "expected real numbers, got complex128"),
        ("diagonal", np.ones(16, np.complex64), "expected real numbers, got complex64"),
        ("density", (np.ones(3) + 1j, np.ones(3)), "expected real numbers, got complex128"),
        ("diagonal", np.ones((16, 1)), "expected shape (16,), got (16, 1)"),
        ("density", (np.ones(3), np.ones(7)), "expected shape (3,), got (7,)"),
        ("density", (np.ones(2), np.asarray([2.0, -1.0])), "expected weights of at least 0, got -1"),
    ):
        assert words in row(task, answer, **({"num_top": 2} if task == "extremes" else {}))["note"]


def test_a_slow_run_is_timed_once_and_apart_from_its_first_call(monkeypatch):
    monkeypatch.setattr(suite, "SLOW", 0.0)
    calls = []

    def setup(request):
        operator = request.scipy_operator
        return lambda seed: (calls.append(seed), operator.matvec(request.start(seed)))[1][:1]

    case = matrix_case("flat", 16)
    task = Task("extremes", "", lambda _: [], None)
    row = suite.measure_group(
        task, Group("flat", lambda: case), case, "tiny", [Estimator("slow", "extremes", setup)], 3
    )[1]
    assert row["seconds"]["num_samples"] == 1
    assert len(calls) == 4  # counted, first, timed, once for its memory
    assert row["first_seconds"] != row["seconds"]["median"]


def test_closed_forms_against_numpy():
    values = synthetic.indefinite(64)
    matrix = synthetic.dense_matrix(values)
    case = matrix_case("indefinite", 64)
    assert np.allclose(np.linalg.eigvalsh(matrix), case.reference.eigenvalues, atol=1e-12)
    assert np.allclose(curvature.to_dense(case.op), matrix, atol=2e-6)
    assert np.allclose(np.diag(matrix), case.reference.diagonal)
    assert np.allclose(case.reference.wanted(1, 1), [-3, 6])
    # the basis mixes: no entry of an eigenvector stands out, as one does in a diagonal matrix
    assert np.max(np.abs(np.linalg.eigh(matrix)[1])) < 0.75


@pytest.mark.parametrize("name", ["linear", "logistic"])
def test_closed_forms_against_differentiation(name):
    network = networks.network_case(name, "tiny").network
    closed, dense = (find(network, {"test": name}) for find in (networks.closed_form, networks.dense_form))
    scale = closed.eigenvalues[-1]
    assert np.allclose(closed.eigenvalues, dense.eigenvalues, atol=1e-6 * scale)  # inputs are float32
    assert np.allclose(closed.diagonal, dense.diagonal, atol=1e-6 * scale)


def test_wasserstein_against_scipy():
    rng = np.random.default_rng(0)
    nodes, weights, values = rng.normal(size=7), rng.random(7), rng.normal(size=20)
    expected = scipy.stats.wasserstein_distance(nodes, values, weights) / np.max(np.abs(values))
    assert wasserstein(nodes, weights, values) == pytest.approx(expected)


def test_missing_failing_and_inapplicable_are_said():
    def fails(request):
        raise RuntimeError("out\nof memory")

    def declines(request):
        raise NotApplicableError("not this one")

    def wrong(request):
        return lambda seed: np.asarray([np.nan])

    chosen = [
        Estimator("gone", "extremes", fails, package="no_such_package"),
        Estimator("broken", "extremes", fails),
        Estimator("choosy", "extremes", declines),
        Estimator("nan", "extremes", wrong, counts=False),
    ]
    case = matrix_case("flat", 16)
    task = Task("extremes", "", lambda _: [], TASKS["extremes"].score)
    group = Group("flat", lambda: case, options={"num_top": 1})
    rows = suite.measure_group(task, group, case, "tiny", chosen, 1)
    assert [row["status"] for row in rows] == ["unit", "missing", "failed", "not applicable", "failed"]
    assert rows[2]["note"] == "RuntimeError: out of memory"
    assert "not finite" in rows[4]["note"]
    assert rows[0]["seconds"]["num_samples"] == 1


def test_a_file_grows_and_what_is_there_is_kept(tmp_path):
    path = tmp_path / "extremes.json"
    store = Store(path, "extremes", {"size": "tiny"}, False)
    row = {"problem": "a", "estimator": "x", "version": "1", "status": "ok"}
    store.put("a", "a", {"dimension": 3}, [row])
    store.put("b", "b", {"dimension": 3}, [row | {"problem": "b"}])
    store = Store(path, "extremes", {"size": "tiny"}, False)
    assert store.has("a", {"x": "1"})
    assert not store.has("a", {"x": "2"})  # another version
    assert not store.has("a", {"x": "1", "y": None})  # one more estimator
    assert not store.has("c", {"x": "1"})
    store.put("a", "a", {"dimension": 3}, [row | {"version": "2"}])
    assert [(r["group"], r["version"]) for r in harness.read_results(path)["rows"]] == [
        ("a", "2"),
        ("b", "1"),
    ]  # in its place
    assert store.estimators("a") == {"x"}
    with pytest.raises(ValueError, match="size"):
        Store(path, "extremes", {"size": "small"}, False)
    assert Store(path, "extremes", {"size": "small"}, True).rows == []
    # what is measured again replaces its own group alone
    store = Store(path, "extremes", {"size": "tiny"}, True)
    assert not store.has("b", {"x": "1"})
    store.put("b", "b", {"dimension": 4}, [row | {"problem": "b", "version": "3"}])
    assert store.has("b", {"x": "3"})
    assert [(r["group"], r["version"]) for r in harness.read_results(path)["rows"]] == [("a", "2"), ("b", "3")]


def test_a_users_file(tmp_path, capsys):
    example = ROOT / "benchmarks" / "examples" / "power_iteration.py"
    arguments = ("run", "--suite", "extremes", "--size", "tiny", "--problems", "indefinite", "--repeats", "1")
    arguments = (*arguments, "--only", "power", "--output", tmp_path)
    try:
        assert main(*arguments, "--estimators", example) == 0
        rows = harness.read_results(tmp_path / "extremes.json")["rows"]
        found = {row["setting"]: row for row in rows if row["estimator"] == "power"}
        assert found["top 1"]["products"] == 20
        assert found["top 1"]["error"]["median"] < 0.2
        assert found["top 5"]["status"] == "not applicable"
        assert main("run", "extremes", *arguments[3:]) == 0  # nothing is measured twice
        assert capsys.readouterr().out.count("is there") == 3
    finally:
        del estimators.ESTIMATORS["extremes", "power"]
    assert main("report", tmp_path) == 0
    written = {"extremes.json", "report.md", "extremes-products.png", "extremes-seconds.png"}
    # peak memory is known on some systems alone
    assert {path.name for path in tmp_path.iterdir()} - {"extremes-megabytes.png"} == written
    text = (tmp_path / "report.md").read_text()
    assert "| power |" in text
    assert "power: not applicable (finds one eigenvalue): indefinite, top 5" in text


def test_what_a_group_has_is_measured_again_beside_what_is_new(tmp_path, capsys):
    example = tmp_path / "mine.py"
    example.write_text((ROOT / "benchmarks" / "examples" / "power_iteration.py").read_text())
    arguments = ("run", "extremes", "--size", "tiny", "--problems", "indefinite, top 1", "--repeats", "0")
    arguments = (*arguments, "--output", tmp_path)

    def run(only, *options):
        estimators.ESTIMATORS.pop(("extremes", "power"), None)
        assert main(*arguments, "--only", only, *options) == 0
        rows = harness.read_results(tmp_path / "extremes.json")["rows"]
        return {row["estimator"]: row["version"] for row in rows if row["status"] != "unit"}, capsys.readouterr().out

    try:
        first, _ = run("power", "--estimators", example)
        both, _ = run("cljax, budget", "--estimators", example)
        assert both == first | {"cljax, budget": both["cljax, budget"]}
        found, printed = run("cljax")  # power is not registered
        assert found == both
        assert "is left as it is, since it has power" in printed
        assert "is there" in run("power", "--estimators", example)[1]
        example.write_text(example.read_text() + "# another one\n")
        found, printed = run("power", "--estimators", example)
        assert "is there" not in printed
        assert found["power"] != both["power"]
        assert set(found) == set(both)
    finally:
        estimators.ESTIMATORS.pop(("extremes", "power"), None)


def test_a_users_file_that_fails_or_has_no_such_task_is_told(tmp_path, capsys):
    path = tmp_path / "mine.py"
    for text, expected in (
        ("1 / 0", "mine.py failed: ZeroDivisionError: division by zero"),
        (
            'from benchmarks.estimators import estimator\n\n\n@estimator("mine", "extreme")\ndef setup(request): ...\n',
            "task: expected one of peer_products, extremes",
        ),
        (
            'from benchmarks.estimators import estimator\n\n\n@estimator("mine", "growth")\ndef setup(request): ...\n',
            "task: expected one of peer_products, extremes",
        ),
        (
            'from benchmarks.estimators import estimator\n\n\n@estimator("mine", "trace")\ndef setup(request): ...\n',
            "mine.py, got trace",
        ),
    ):
        path.write_text(text)
        try:
            assert main("run", "extremes", "--size", "tiny", "--estimators", path, "--output", tmp_path) == 2
        finally:
            for task in ("extreme", "growth", "trace"):
                estimators.ESTIMATORS.pop((task, "mine"), None)
        assert expected in capsys.readouterr().err


def test_a_missing_peer_is_never_beaten(tmp_path):
    ok = {"status": "ok", "version": "1", "settings": "", "control": 100, "setting": "", "problem": "a", "group": "a"}
    ok["kind_of_control"] = "budget"
    spread = {"median": 0.1, "minimum": 0.1, "lower_quartile": 0.1, "upper_quartile": 0.1, "num_samples": 1}
    rows = [
        ok | {"estimator": "cljax Lanczos, 1 probe", "products": 100, "error": spread},
        ok | {"estimator": "peer", "products": 100, "error": spread | {"median": 0.01, "upper_quartile": 0.02}},
        ok | {"estimator": "other", "products": 100, "error": spread | {"median": 0.05, "upper_quartile": 0.2}},
        ok | {"estimator": "gone", "status": "missing", "version": None},
        ok | {"estimator": "peer", "problem": "b", "group": "b", "error": spread},
    ]
    results = {
        "format": 1,
        "benchmark": "density",
        "environment": machine.environment(),
        "problems": {"a": {}, "b": {}},
    }
    (tmp_path / "density.json").write_text(json.dumps(results | {"rows": rows}))
    text, _ = report.report_of(tmp_path)
    assert "| density | a | with 100 products | 0.1 | 0.01 (0.1–0.02) | cljax Lanczos, 1 probe | peer |" in text
    assert "- gone: missing: a" in text
    assert "- other: not measured: b" in text
    assert "| gone | 0" not in text


def test_committed_report_is_that_of_the_results(tmp_path):
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path / path.name)
    text, curves = report.report_of(tmp_path)
    assert (RESULTS / "report.md").read_text() == text.replace(tmp_path.name, RESULTS.name, 1)
    assert all((RESULTS / f"{task}-products.png").exists() for task in curves)


def test_results_that_are_not_measured_are_left_out(tmp_path, monkeypatch):
    def no_data():
        raise ValueError("no such file")

    monkeypatch.setitem(TASKS, "none", Task("none", "", lambda _: [Group("a", no_data)], None))
    store = Store(tmp_path / "none.json", "none", {}, False)
    console = Console(record=True, quiet=False)
    suite.run_task(TASKS["none"], "tiny", store, 1, console)
    assert "left out: no such file" in console.export_text()
    assert store.rows == []


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", ["mlp", "lenet", "vit", "transformer", "resnet18"])
def test_twins_in_torch(name):
    import torch

    from benchmarks.torch_models import twin

    network = networks.network_case(name, "tiny").network
    found = twin(network)
    scores = found.model(found.inputs).detach().numpy()
    assert np.allclose(scores, network.apply_fn(network.params, network.batch.inputs), atol=1e-5)
    loss = found.criterion(found.model(found.inputs), found.targets)
    gradient = found.to_flat(torch.autograd.grad(loss, list(found.model.parameters())))
    expected = jax.flatten_util.ravel_pytree(jax.grad(network.objective)(network.params, network.batch))[0]
    assert np.allclose(gradient, expected, atol=1e-5)
    vector = np.arange(len(gradient), dtype=np.float32)
    assert np.array_equal(found.to_flat(found.from_flat(vector)), vector)
