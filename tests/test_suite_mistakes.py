"""The suite in the hands of its users: their files with mistakes, results in parts, runs side by side."""

import contextlib
import json
import pathlib
import threading

import pytest

from benchmarks import __main__ as command_line
from benchmarks import estimators, harness, networks, report, suite
from benchmarks.estimators.products import KINDS
from benchmarks.machine import environment
from benchmarks.store import Store
from benchmarks.tasks import TASKS, Group

HEAD = "from benchmarks.estimators import *\n"
ANSWER = "(r.scipy_operator.matvec(r.start(s)), r.case.reference.wanted(r.num_top, r.num_bottom))[1]"
"""The exact answer, for the price of a product."""
RUN = ("run", "extremes", "--size", "tiny", "--problems", "outliers")


def main(*arguments):
    return command_line.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLJAX_BENCHMARK_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark-cache"))


@contextlib.contextmanager
def registry():
    """What is registered inside is gone afterwards."""
    estimators.load_builtin()
    before = dict(estimators.ESTIMATORS)
    try:
        yield
    finally:
        estimators.ESTIMATORS.clear()
        estimators.ESTIMATORS.update(before)


def measured(folder, text, *names, repeats=0):
    """Rows of estimators of a file, by name."""
    path = folder / "mine.py"
    path.write_text(HEAD + text)
    with registry():
        arguments = (*RUN, "--repeats", repeats, "--output", folder, "--estimators", path, "--only", *names)
        assert main(*arguments) == 0
    return {row["estimator"]: row for row in harness.read_results(folder / "extremes.json")["rows"]}


def test_a_users_file_may_have_dataclasses_of_written_annotations(tmp_path):
    text = f"""
import dataclasses
@dataclasses.dataclass
class Options:
    number: "int" = 3
@estimator("mine", "extremes")
def setup(r): return lambda s: {ANSWER}
"""
    assert measured(tmp_path, text, "mine")["mine"]["status"] == "ok"


@pytest.mark.parametrize("kind", ["ValueError", "RuntimeError"])
def test_what_fails_in_a_round_of_timing_has_failed_alone(tmp_path, kind):
    text = f"""
import itertools
@estimator("late", "extremes")
def setup(r):
    calls = itertools.count()
    def run(s):
        if next(calls) == 4:  # in a round, or before it
            raise {kind}("tired")
        return {ANSWER}
    return run
@estimator("steady", "extremes")
def setup(r): return lambda s: {ANSWER}
"""
    rows = measured(tmp_path, text, "late", "steady", repeats=2)
    assert (rows["late"]["status"], rows["late"]["note"]) == ("failed", f"{kind}: tired")
    assert "seconds" not in rows["late"]
    assert rows["steady"]["seconds"]["num_samples"] == 2


@pytest.mark.parametrize("name", ["", " ", ", a", "a|b", "a\nb", "one product", "one gradient", 3])
def test_names_that_tables_cannot_show_are_refused(name):
    with pytest.raises(ValueError, match="name: expected a line of text"):
        estimators.estimator(name, "extremes")


def test_an_estimator_named_unit_is_not_the_unit_of_time(tmp_path):
    text = f'@estimator("unit", "extremes")\ndef setup(r): return lambda s: {ANSWER}\n'
    rows = measured(tmp_path, text, "unit", repeats=1)
    assert {name: row["status"] for name, row in rows.items()} == {"one product": "unit", "unit": "ok"}
    assert all(row["seconds"] for row in rows.values())


def test_settings_and_notes_of_several_lines_stay_in_their_tables(tmp_path):
    text = f'''
@estimator("long", "extremes", settings="""one
two | three""")
def setup(r): return lambda s: {ANSWER}
@estimator("choosy", "extremes")
def setup(r): raise NotApplicableError("not this" + chr(10) + "one")
'''
    measured(tmp_path, text, "long", "choosy")
    assert main("report", tmp_path) == 0
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert any(line.startswith("| extremes | long |") and line.endswith("| one two \\| three |") for line in lines)
    assert "- choosy: not applicable (not this one): outliers, top 5" in lines


def spread(value):
    return {"median": value, "minimum": value, "lower_quartile": value, "upper_quartile": value, "num_samples": 1}


def write(path, benchmark, rows, **problems):
    """A result file of rows that ran, all but what is given as it mostly is."""
    row = {"status": "ok", "version": "1", "settings": "", "setting": "", "control": 0, "problem": "a", "group": "a"}
    row |= {"kind_of_control": "budget", "products": 10, "error": spread(0.1), "seconds": spread(1.0)}
    results = {"format": 1, "benchmark": benchmark, "environment": environment(), "problems": {"a": problems}}
    harness.write_results(path, results | {"rows": [row | more for more in rows]})
    return path


def test_a_tracked_estimator_without_counts_is_in_the_report(tmp_path):
    rows = [{"estimator": "mine", "products": None, "share_within_1e-3": spread(0.5)}]
    write(tmp_path / "tracked.json", "tracked", rows, points=4)
    assert main("report", tmp_path) == 0
    assert "| mine | 0 |  | 0.1 | 0.5 | 1 |  |" in (tmp_path / "report.md").read_text()


def test_a_folder_of_networks_alone_has_a_report(tmp_path):
    rows = [{"operator": "gradient", "form": "", "seconds": spread(2.0)}]
    write(tmp_path / "products.json", "products", rows, batch_size=4)
    assert main("report", tmp_path) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| a, 4 examples | gradient | 2 |" in text
    assert "ahead" not in text


def test_where_none_of_ours_was_measured_no_peer_is_ahead(tmp_path):
    peer = {"estimator": "ARPACK"}
    write(tmp_path / "extremes.json", "extremes", [peer | {"error": spread(1e-6)}])
    assert "ARPACK" not in report.report_of(tmp_path)[0].split("## extremes")[0]
    ours = {"estimator": "cljax", "error": spread(0.5)}
    write(tmp_path / "extremes.json", "extremes", [peer | {"error": spread(1e-6)}, ours])
    assert "| a | to 0.001 | not reached | 10 |  | ARPACK |" in report.report_of(tmp_path)[0]


def test_the_report_names_pictures_that_are_there_alone(tmp_path):
    unit = {"estimator": "one product", "status": "unit"}
    write(tmp_path / "density.json", "density", [unit, {"estimator": "peer", "status": "failed", "note": "no"}])
    assert main("report", tmp_path) == 0
    assert "](density-" not in (tmp_path / "report.md").read_text()


def test_two_files_of_one_suite_have_pictures_each(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"density-{number}.json", "density", [{"estimator": f"peer {number}", "control": 100}])
    assert main("report", tmp_path) == 0
    text = (tmp_path / "report.md").read_text()
    for number in (1, 2):
        assert f"## density-{number}\n" in text
        assert f"](density-{number}-products.png)" in text
        assert (tmp_path / f"density-{number}-products.png").exists()


def test_a_result_file_with_parts_missing_is_told_in_one_line(tmp_path, capsys):
    path = write(tmp_path / "extremes.json", "extremes", [{"estimator": "peer"}])
    whole = json.loads(path.read_text())
    broken = [{key: value for key, value in whole.items() if key != gone} for gone in whole if gone != "format"]
    rows = [3, {"estimator": "peer"}, {"problem": "a", "estimator": "peer"}, {"problem": "b"}]
    broken += [whole | {"rows": [row]} for row in rows] + [whole | {"rows": 3}, whole | {"environment": None}]
    for results in broken:
        path.write_text(json.dumps(results))
        for arguments in (("report", tmp_path), ("compare", path, path), (*RUN, "--output", path)):
            assert main(*arguments) == 2
            message = capsys.readouterr().err
            assert "extremes.json: expected results of a suite with its environment, problems and rows" in message
            assert message.count("\n") == 1


def test_compare_says_what_failed_or_is_in_one_file_alone(tmp_path, capsys):
    old = write(tmp_path / "old.json", "extremes", [{"estimator": name} for name in ("steady [/x]", "gone", "late")])
    failed = {"estimator": "late", "status": "failed", "error": None, "products": None, "seconds": None}
    new = write(tmp_path / "new.json", "extremes", [{"estimator": "steady [/x]"}, {"estimator": "mine"}, failed])
    assert main("compare", old, new) == 0
    printed = capsys.readouterr().out
    assert "note: in OLD only, left out: a gone 0\n" in printed
    assert "note: in NEW only, left out: a mine 0\n" in printed
    assert "note: a late 0 was ok, is failed\n" in printed
    assert "\nsteady [/x] 0 " in printed
    assert "0 was ok, is ok" not in printed


def test_paths_with_brackets_are_printed_as_they_are(tmp_path, capsys):
    folder = tmp_path / "[a]" / "b[" / "c]"
    assert main(*RUN, "--repeats", "0", "--only", "ARPACK", "--output", folder) == 0
    assert f"{folder / 'extremes.json'}\n" in capsys.readouterr().out
    assert main("report", folder) == 0
    assert f"wrote {folder / 'report.md'}\n" in capsys.readouterr().out


def test_a_part_of_a_missing_package_is_missing(tmp_path):
    text = '@estimator("mine", "extremes", package="no_such_package.part")\ndef setup(r): ...\n'
    assert measured(tmp_path, text, "mine")["mine"]["status"] == "missing"


def test_a_suite_without_the_estimators_that_are_named_measures_nothing(tmp_path, capsys):
    arguments = ("run", "extremes", "trace", "--size", "tiny", "--problems", "outliers", "exponential")
    assert main(*arguments, "--repeats", "0", "--only", "ARPACK", "--output", tmp_path) == 0
    assert "trace: has none of the estimators that are named" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"extremes.json"}


@pytest.mark.parametrize("scipy", [False, True])
def test_the_operator_of_a_request_is_of_the_kind_that_is_asked_for(scipy):
    case = networks.network_case("mlp", "tiny")

    def setup(r):
        product = r.scipy_operator.matvec if scipy else estimators.flat_product(r.op)
        return lambda seed: product(r.start(0))

    for kind in KINDS:
        group = Group(case.name, lambda: case, options={"kind": kind})
        mine = estimators.Estimator("mine", "peer_products", setup)
        row = suite.measure_group(TASKS["peer_products"], group, case, "tiny", [mine], 0)[1]
        assert row["products"] == 1
        assert row["error"]["median"] < 1e-5


def test_points_of_a_request_are_counted():
    group = TASKS["tracked"].groups("tiny")[0]

    def setup(r):
        def run(seed):
            for point in r.points:
                point.scipy_operator.matvec(point.start(0))
            return r.case.reference.extremes[1]

        return run

    mine = estimators.Estimator("mine", "tracked", setup)
    row = suite.measure_group(TASKS["tracked"], group, group.make(), "tiny", [mine], 0)[1]
    assert (row["products"], row["error"]["median"]) == (4, 0)


def test_two_runs_into_one_file_keep_what_the_other_wrote(tmp_path):
    path = tmp_path / "extremes.json"
    row = {"estimator": "x", "version": "1", "status": "ok"}
    stores = [Store(path, "extremes", {"size": "tiny"}, False) for _ in range(2)]

    def write_many(store, names):
        for name in names:
            store.put(name, name, {"dimension": 3}, [row | {"problem": name}])

    names = ["abcdefgh", "ijklmnop"]
    threads = [threading.Thread(target=write_many, args=pair) for pair in zip(stores, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = harness.read_results(path)
    assert sorted(row["group"] for row in results["rows"]) == sorted(results["problems"]) == sorted("".join(names))
    assert [entry.name for entry in tmp_path.iterdir()] == ["extremes.json"]


def test_a_file_of_another_size_is_replaced_once(tmp_path):
    path = tmp_path / "extremes.json"
    row = {"estimator": "x", "version": "1", "status": "ok"}
    Store(path, "extremes", {"size": "small"}, False).put("a", "a", {}, [row | {"problem": "a"}])
    store = Store(path, "extremes", {"size": "tiny"}, True)
    for name in "bc":
        store.put(name, name, {}, [row | {"problem": name}])
    results = harness.read_results(path)
    assert results["size"] == "tiny"
    assert [row["group"] for row in results["rows"]] == ["b", "c"]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "measure_group", None)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", pathlib.Path("/proc/self")):
        if folder.exists():
            assert main(*RUN, "--only", "ARPACK", "--output", folder) == 2
            assert f"error: output: cannot write to {folder / 'extremes.json'}: " in capsys.readouterr().err


def test_products_of_the_set_up_count(tmp_path):
    text = f"""
@estimator("early", "extremes")
def setup(r):
    for i in range(20):
        r.scipy_operator.matvec(r.start(i))
    return lambda s: {ANSWER}
"""
    assert measured(tmp_path, text, "early")["early"]["products"] == 21
