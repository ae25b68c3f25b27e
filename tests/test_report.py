"""The report: what counts as reached, what is compared with what, and that all that was measured is in it."""

import json
import re
import subprocess

import numpy as np
import pytest
from rich.console import Console

from benchmarks import harness, machine, report_environment, report_plain, report_plots, report_rows, suite
from benchmarks.compare import compare
from benchmarks.estimators import Estimator, load_builtin
from benchmarks.reading import title_of
from benchmarks.report import report_of
from benchmarks.store import Store
from benchmarks.tasks import Group, Task
from benchmarks.tasks.base import matrix_case


def spread(*samples):
    return harness.dataclasses.asdict(harness.spread([float(sample) for sample in samples]))


def row(estimator, control=100, group="a", **found):
    return {
        "estimator": estimator,
        "control": control,
        "group": group,
        "problem": group.split(",")[0],
        "setting": group.partition(", ")[2],
        "kind_of_control": "budget",
        "status": "ok",
        "version": "1",
        "settings": "",
        **found,
    }


def text_of(folder, benchmark, rows, **results):
    """The report of one file."""
    found = {"format": 1, "benchmark": benchmark, "environment": machine.environment()}
    found |= {"problems": {row["problem"]: {"points": 2} for row in rows}, "rows": rows}
    folder.mkdir(exist_ok=True)
    (folder / f"{benchmark}.json").write_text(json.dumps(found | results))
    return report_of(folder)[0]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [((5,), 5), ((5, 1), 5), ((5, 1, 2), 5), ((4, 1, 2, 9), 9), ((1, 2, 3, 4, 9), 4), ((1, 2, 3, 4, 5, 6, 9), 6)],
)
def test_a_tolerance_is_reached_by_every_one_of_few_seeds(samples, expected):
    error = spread(*samples)
    assert report_rows.reached_by({"error": error | {"samples": samples}}) == expected
    if len(samples) <= 3:  # rows that have no more than the summary
        assert report_rows.reached_by({"error": error}) == pytest.approx(expected)
    assert report_rows.reached_by({"error": None}) is None


def test_single_errors_are_kept():
    case = matrix_case("flat", 16)
    answers = iter([1.0, 2.0, 3.0])
    estimator = Estimator("e", "extremes", lambda request: lambda seed: next(answers), counts=False)
    task = Task("extremes", "", lambda _: [], lambda answer, case, group: {"error": answer}, num_seeds=3)
    found = suite.measure_group(task, Group("flat", lambda: case), case, "tiny", [estimator], 0)[1]
    assert found["error"]["samples"] == [1, 2, 3]


def test_what_one_of_three_seeds_misses_is_not_reached(tmp_path):
    rows = [row("cljax", 1e-3, "a, top 5", products=7, error=spread(1e-4, 1e-4, 1.1e-3))]
    rows += [row("cljax", 1e-5, "a, top 5", products=9, error=spread(1e-6, 1e-6, 1e-6))]
    text = text_of(tmp_path, "extremes", rows)
    assert "| cljax | **7** |" in text.split("at most 0.01")[1].split("at most 0.001")[0]
    assert "| cljax | **7** |" not in text.split("at most 0.001")[1]
    assert "| cljax | **9** |" in text.split("at most 0.001")[1]
    assert "three of four" not in text


@pytest.mark.parametrize(
    ("budgets", "expected"), [([20], 20), ([30, 60], 60), ([50, 100, 200], 100), ([25, 50, 100, 200], 100)]
)
@pytest.mark.parametrize("task", ["density", "trace", "diagonal"])
def test_estimators_are_compared_at_a_budget_that_they_have(task, budgets, expected, tmp_path):
    rows = [row("cljax", b, error=spread(0.5), seconds=spread(0.1)) for b in budgets]
    rows += [row("peer", b, error=spread(1 / b), seconds=spread(0.1)) for b in budgets]
    rows += [row("other", 7, error=spread(0.5)), row("gone", 7, status="missing")]  # a budget of one alone
    rows += [row("fixed", 0, kind_of_control="none", error=spread(0.5))]
    text = text_of(tmp_path, task, rows)
    assert f"Median error with {expected} products" in text
    assert f"| {task} | a | with {expected} products | 0.5 | " in text


def test_a_task_without_budgets_has_no_such_table(tmp_path):
    assert "Median error with" not in text_of(tmp_path, "trace", [row("gone", status="missing")])


def part(text, start, end="**"):
    return text.split(start)[1].split(end)[0]


@pytest.mark.parametrize("task", ["density", "trace", "diagonal", "extremes", "tracked", "growth"])
def test_every_place_where_a_peer_is_ahead_is_told(task, tmp_path):
    """In seconds and memory of every task, and in errors where all have one budget."""
    ours = {"products": 100, "error": spread(5e-4), "seconds": spread(2, 2.1, 2.2), "peak_bytes": spread(2e6, 3e6)}
    theirs = ours | {"seconds": spread(1, 1.1, 1.2), "peak_bytes": spread(1e6)}
    share = {"share_within_1e-3": spread(1)}
    rows = [row("cljax", group="a, k 1", **ours, **share), row("cljax, slow", group="a, k 1", **ours, **share)]
    rows += [row("peer", group="a, k 1", **theirs, **share)]
    near = {"seconds": spread(1, 2.15, 2.2), "peak_bytes": spread(1e6, 3e6)}  # the quartiles overlap
    rows += [row("cljax", group="b, k 1", **ours, **share), row("peer", group="b, k 1", **theirs | near, **share)]
    text = text_of(tmp_path, task, rows).split("## Where a peer is ahead")[1].split(f"## {task}")[0]
    measure = {"extremes": "to 0.001", "tracked": "to 0.001", "growth": ""}.get(task, "with 100 products")
    seconds, memory = (part(text, f"**{kind}**: 1 of 2") for kind in ("Seconds", "Peak megabytes"))
    assert f"| {task} | a, k 1 | {measure} | 2.1 (2–2.2) | 1.1 | cljax | peer |" in seconds
    assert f"| {task} | a, k 1 | {measure} | 2.5 (2.2–2.8) | 1 | cljax | peer |" in memory
    assert "b, k 1" not in text
    assert ("**Error**: 0 of 2" in text) == (task in {"density", "trace", "diagonal"})


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("extremes", "**q**, first call, seconds"),
        *((task, "First call, seconds") for task in ("density", "trace", "diagonal", "tracked", "peer_products")),
    ],
)
def test_first_calls_are_those_that_compiled(task, title, tmp_path):
    """A second tolerance or budget may find the programs of the first."""
    more = {"products": 100, "error": spread(5e-4), "seconds": spread(2), "share_within_1e-3": spread(1)}
    rows = [row("cljax", c, "a, q", first_seconds=s, **more) for c, s in ((30, 7), (60, 2.5), (100, 2.6))]
    rows += [row("gone", group="a, q", status="missing")]
    text = text_of(tmp_path, task, rows)
    assert "| cljax | 7 |" in text.split(title)[1].split("\n\n")[1]
    assert "are not compiled again" in text


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("extremes", "**q**, milliseconds of the fastest run with an error of at most 0.001"),
        ("density", "Milliseconds with 100 products"),
        ("peer_products", "Milliseconds"),
        ("tracked", "asked for"),
    ],
)
def test_times_have_their_quartiles(task, title, tmp_path):
    found = {"products": 100, "error": spread(5e-4), "share_within_1e-3": spread(1)}
    rows = [row("cljax", group="a, q", seconds=spread(0.002, 0.004, 0.006), **found)]
    rows += [row("peer", group="a, q", seconds=spread(0.005), **found)]
    shown = text_of(tmp_path, task, rows).split(title)[1].split("\n\n")[:2]
    assert ("0.004 (0.003–0.005) |" if task == "tracked" else "| **4 (3–5)** |") in "\n".join(shown)
    assert ("| 0.005 |" if task == "tracked" else "| peer | 5 |") in "\n".join(shown)


def test_plots_have_bars_between_quartiles(tmp_path, monkeypatch):
    drawn = []
    bars = report_plots.bars
    monkeypatch.setattr(report_plots, "bars", lambda *ranges: drawn.append(bars(*ranges)) or drawn[-1])
    rows = [row("cljax", seconds=spread(1, 2, 4), error=spread(0, 0, 4, 5, 6))]
    paths = [*report_plots.draw_curves("density", rows, tmp_path)]
    assert [path.name for path in paths] == ["density-seconds.png"]
    nan = np.nan
    np.testing.assert_allclose(drawn[0][0], [1.5, 3, nan, 2, 2, nan])
    np.testing.assert_allclose(drawn[0][1], [4, 4, nan, 0.4, 5, nan])  # a lower quartile of 0
    point = [row("power", seconds=spread(0.0004880420019617304), error=spread(1e-4, 2e-4))]
    assert [*report_plots.draw_curves("density", point, tmp_path)] == paths


def test_growth_has_a_table_of_each_axis(tmp_path):
    settings = ("width 4", "width 8", "batch 16", "k 1", "k 5")
    rows = [row("cljax", group=f"m, {s}", seconds=spread(0.001 * i), first_seconds=9) for i, s in enumerate(settings)]
    text = text_of(tmp_path, "growth", rows).split("## growth")[1]
    for axis, columns in (("width", "width 4 | width 8"), ("batch", "batch 16"), ("k", "k 1 | k 5")):
        assert f"**{axis}**, milliseconds\n\n| | {columns} |\n" in text
        assert f"**{axis}**, first call, seconds\n\n| | {columns} |\n" in text


def test_structure_has_the_examples_that_it_measured():
    rows = [{"problem": "mlp", "operator": "structure", "num_examples": 128, "seconds": spread(1, 2, 3)}]
    text = report_plain.plain_table(
        "s", {"benchmark": "structure", "rows": rows, "problems": {"mlp": {"batch_size": 256}}}
    )
    assert "| mlp, 128 examples | structure | 2 (1.5–2.5) |" in text


def test_each_group_has_the_environment_in_which_it_began(tmp_path, monkeypatch):
    path = tmp_path / "density.json"
    machine._commit.cache_clear()
    Store(path, "density", {}, False).put("a", "a", {}, [row("cljax", group="a")])
    kept = harness.read_results(path)["environments"]["a"]
    assert {"python", "numpy", "scipy", "jaxlib"} <= set(kept["versions"])
    assert kept["commit"] is None or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", kept["commit"])
    assert "processor" in kept
    there = kept | {"processor": "another", "date": "2030-01-02T03:04:05+00:00", "load": 0.5, "commit": "c0ffee"}
    task = Task("density", "", lambda _: [Group("b", lambda: matrix_case("flat", 16))], None)
    # what holds when a group begins, not when it ends
    monkeypatch.setattr(suite, "environment", lambda: there)
    load_builtin()
    monkeypatch.setattr(suite, "measure_group", lambda *_: [row("cljax", group="b")])
    suite.run_task(task, "tiny", Store(path, "density", {}, False), 0, Console(), names=["cljax Chebyshev"])
    results = harness.read_results(path)
    assert results["environments"] == {"a": kept, "b": there}
    text = report_of(tmp_path)[0]
    assert re.search(r"another, .*python 3.*\n  - density, 1 of 2 groups: 2030-01-02, load 0.5 at the start, ", text)
    assert "commit c0ffee: b\n" in text
    assert report_environment.differences(results, results | {"rows": results["rows"][:1]}) == [
        f"processor differs: {kept['processor']} / another and {kept['processor']}"
    ]


def test_the_environment_of_a_file_is_that_of_groups_without_one(tmp_path):
    old = {name: value for name, value in machine.environment().items() if name not in {"processor", "versions"}}
    old |= {"threads": {}, "commit": None, "num_cpus": 3, "usable_cpus": 2, "date": "2020-02-02", "load": 7}
    results = {"format": 1, "benchmark": "density", "environment": old, "note": "all by hand"}
    results |= {"problems": {"a": {}, "b": {}}, "rows": [row("cljax", group="a"), row("cljax", group="b")]}
    path = tmp_path / "density.json"
    path.write_text(json.dumps(results))
    text = report_of(tmp_path)[0]
    assert "2 of 3 CPUs, float32\n  - density: 2020-02-02, load 7 at the start; all by hand\n" in text
    Store(path, "density", {}, False).put("b", "b", {}, [row("cljax", group="b")])
    text = report_of(tmp_path)[0]
    assert "  - density, 1 of 2 groups: 2020-02-02, load 7 at the start: a; all by hand\n" in text
    Store(path, "density", {}, False).put("a", "a", {}, [row("cljax", group="a")])
    assert "note" not in harness.read_results(path)


def test_results_leave_the_code_as_it_is(tmp_path, monkeypatch):
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for name in ("cljax", "benchmarks/results"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("a")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    find = machine._commit.__wrapped__
    (tmp_path / "benchmarks" / "results" / "a.txt").write_text("b")
    clean = find()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "cljax" / "a.txt").write_text("b")
    assert find() == f"{clean}-dirty"
    monkeypatch.setattr(machine, "_ROOT", tmp_path / "cljax")
    assert find() is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"first_seconds": 2.8}, []),
        ({"first_seconds": 3.2}, ["slower"]),
        ({"first_seconds": 1.2}, ["faster"]),
        ({"peak_bytes": spread(5e6, 6e6)}, ["more"]),
        ({"peak_bytes": spread(1e6)}, ["fewer"]),
        ({"peak_bytes": spread(1e6, 4e6)}, []),  # the quartiles overlap
        ({"peak_bytes": None, "first_seconds": None}, []),
    ],
)
def test_first_calls_and_peak_memory_are_compared(changes, words, capsys):
    results = {"benchmark": "density", "environment": machine.environment(), "problems": {"a": {}}}
    old, new = (
        results | {"rows": [row("cljax", **({"first_seconds": 2.0, "peak_bytes": spread(2e6, 3e6)} | more))]}
        for more in ({}, changes)
    )
    assert compare(old, new, Console()) == len(words)
    printed = capsys.readouterr().out
    assert re.findall(r"slower|faster|more|fewer", printed) == words
    assert re.search(r"call +bytes", printed)
    assert "…" not in printed


def test_flags_with_paths_are_not_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/someone --xla_cpu_multi_thread_eigen=false")
    assert machine.environment()["threads"]["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/someone")
    assert "XLA_FLAGS" not in machine.environment()["threads"]


def test_without_budgets_a_table_has_none_in_its_title(tmp_path):
    rows = [row("free", control=0, kind_of_control="none", error=spread(1e-3), seconds=spread(1.0))]
    text = text_of(tmp_path, "density", rows)
    assert "\nMedian error\n\n| | a |\n" in text
    assert "None" not in text.split("## density")[1].split("## How")[0]


def test_first_calls_are_of_what_ran(tmp_path):
    rows = [row("good", first_seconds=2.0), row("bad", status="failed", note="no", first_seconds=7.0)]
    text = text_of(tmp_path, "density", rows)
    assert "| good | 2 |" in text
    assert "| bad | 7 |" not in text


def test_a_problem_is_named_with_its_width():
    rows = [{"problem": "resnet18", "group": name} for name in ("narrow", "wide")]
    problems = {name: {"batch_size": 1, "options": {"width": w}} for name, w in (("narrow", 16), ("wide", 64))}
    found = [title_of({"problems": problems}, row) for row in rows]
    assert found == ["resnet18, 1 example, width 16", "resnet18, 1 example, width 64"]


def test_what_is_timed_is_what_is_scored():
    seeds = []

    def setup(request):
        def run(seed):
            seeds.append((request.counter is not None, seed))
            request.scipy_operator.matvec(request.start(seed))
            return np.ones(2), np.ones(2)

        return run

    task = Task("density", "", lambda _: [], lambda *_: {"error": 0.0}, num_seeds=2)
    case, group = matrix_case("flat", 16), Group("flat", lambda: matrix_case("flat", 16))
    suite.measure_group(task, group, case, "tiny", [Estimator("mine", "density", setup)], 1)
    scored, timed = ({seed for counted, seed in seeds if counted == kind} for kind in (True, False))
    assert len(scored) == 2
    assert len(timed) == 1
    assert timed < scored
