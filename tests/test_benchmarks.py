"""Benchmarks: the project's FLOP targets, result files, comparison, help and messages."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tyro
from rich.console import Console

from benchmarks import __main__ as command_line
from benchmarks import (
    bench_compile,
    bench_convolutions,
    bench_memory,
    bench_plan,
    bench_products,
    bench_scaling,
    harness,
    report_plain,
)
from benchmarks.compare import compare
from benchmarks.problems import PROBLEMS, Size, create_problem

ROOT = pathlib.Path(__file__).parent.parent
TARGETS = {"hessian": 2.0, "gauss_newton": 1.35}
MLP = "mlp, 4 examples of 4x4x1, hidden [8]"
SUITES = ", ".join(command_line.SUITES)


def main(*arguments):
    return command_line.main([str(argument) for argument in arguments])


def parse(example):
    return tyro.cli(command_line.Command, args=example.split()[3:])


def examples(command):
    return re.findall(r"\$ (python -m benchmarks .*)", command.__doc__)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "new" / "products.json"
    arguments = ["run", "products", "--problems", "mlp", "lenet", "--size", "tiny", "--repeats", "3"]
    assert main(*arguments, "--output", path) == 0
    assert [file.name for file in path.parent.iterdir()] == ["products.json"]
    return path


@pytest.mark.parametrize("name", [*PROBLEMS, "cnn"])
def test_flop_targets_at_full_size(name, monkeypatch):
    monkeypatch.setitem(PROBLEMS, "cnn", {"full": Size(32, (32, 32, 3), {})})
    rows = bench_products.measure(create_problem(name, "full"), 0, operators=TARGETS, forms=("linearized",))
    found = {row["operator"]: row["flops_in_gradients"] for row in rows}
    for operator, target in TARGETS.items():
        assert 1 < found[operator] <= target
    assert [row["target_met"] for row in rows] == [None, True, True]
    assert all(row["seconds"] is None for row in rows)


def test_flops_of_a_gradient_are_those_of_its_matrix_products():
    problem = create_problem("mlp", "full")
    row = bench_products.measure(problem, 0, operators=())[0]
    products = 2 * 784 * 256 + 3 * 256 * 256 + 3 * 256 * 10  # the first layer has no derivative in its input
    assert row["flops"] == pytest.approx(2 * 256 * products, rel=0.01)


def test_result_file(results):
    saved = harness.read_results(results)
    assert saved["benchmark"] == "products"
    assert {"jax", "backend", "device", "num_cpus", "dtype", "matmul_precision", "date"} <= set(saved["environment"])
    assert set(saved["environments"]) == {row["group"] for row in saved["rows"]}
    assert set(saved["problems"]) == {MLP, "lenet, 4 examples of 8x8x1"}
    assert saved["problems"][MLP] == {
        "batch_size": 4,
        "input_shape": [4, 4, 1],
        "options": {"hidden": [8]},
        "num_params": 16 * 8 + 8 + 8 * 10 + 10,
    }
    kinds = {(row["operator"], row["form"]) for row in saved["rows"]}
    assert kinds == {("gradient", "")} | {
        (op, form) for op in bench_products.OPERATORS for form in bench_products.FORMS
    }
    assert len(saved["rows"]) == 2 * len(kinds)
    for row in saved["rows"]:
        for spread in (row["seconds"], row["time_in_gradients"]):
            ordered = [spread[key] for key in ("minimum", "lower_quartile", "median", "upper_quartile")]
            assert ordered == sorted(ordered)
            assert ordered[0] > 0
            assert spread["num_samples"] == 3
        assert row["flops_target"] == (TARGETS.get(row["operator"]) if row["form"] == "linearized" else None)
        assert row["compile_seconds"] > 0
        assert (row["stored_bytes"] is not None) == (row["form"] == "linearized")
        if row["operator"] == "gradient":
            assert row["flops_in_gradients"] == row["time_in_gradients"]["median"] == 1


def test_lanczos_in_its_products(tmp_path, capsys):
    path = tmp_path / "lanczos.json"
    assert main("run", "lanczos", "--problems", "mlp", "--size", "tiny", "--repeats", "2", "--output", path) == 0
    rows = {(row["operator"], row["form"]): row for row in harness.read_results(path)["rows"]}
    assert set(rows) == {("gradient", ""), *((o, d) for o in ("products", "lanczos") for d in ("compiled", "host"))}
    for driver in ("compiled", "host"):
        row = rows["lanczos", driver]
        assert row["time_in_products"]["num_samples"] == 2
        assert row["target_met"] == (row["time_in_products"]["median"] <= 1.2)
    assert "90 steps" in capsys.readouterr().out
    assert compare(harness.read_results(path), harness.read_results(path), Console()) == 0


def test_structure_matrices_against_whole_rows(tmp_path, capsys):
    path = tmp_path / "structure.json"
    arguments = ["run", "structure", "--problems", "mlp", "--size", "tiny", "--repeats", "2"]
    assert main(*arguments, "--output", path) == 0
    results = harness.read_results(path)
    rows = {(row["operator"], row["form"]): row for row in results["rows"]}
    forms = ("whole rows", "factors", "centered")
    assert set(rows) == {("gradient", ""), *(("structure", form) for form in forms)}
    factors = rows["structure", "factors"]
    assert factors["targets_met"]["speedup"] == (factors["speedup"]["median"] >= 20)
    assert factors["targets_met"]["flops_in_gradients"] == (factors["flops_in_gradients"] <= 10 / 3 + 1.5)
    assert rows["structure", "whole rows"]["speedup"]["median"] == 1
    assert "mlp: 4 examples" in capsys.readouterr().out
    assert compare(results, results, Console()) == 0


def test_memory_beside_matfree():
    """60 vectors and a few more are held where all are kept, a few where they are not, and two bases by matfree."""
    names = ("density, all vectors", "density, three-term", "matfree eigh_partial, reortho full")
    problem = create_problem("mlp", "small")
    every, few, peer = (row["vectors"] for row in bench_memory.measure(problem, names))
    assert 60 < every < 70
    assert few < 10
    assert peer > 120


def test_a_basis_on_the_host_takes_a_few_vectors_of_the_device():
    problem = create_problem("mlp", "small")
    names = ("one product", "top 3, all vectors", bench_memory.ON_HOST)
    one, every, on_host = bench_memory.measure(problem, names)
    vector = harness.num_bytes(problem.params)
    assert one["vectors"] < on_host["vectors"] < one["vectors"] + 10 < every["vectors"]
    assert 60 * vector <= on_host["host_bytes"] < 70 * vector
    text = report_plain.plain_table("m", {"benchmark": "memory", "rows": [one, on_host], "problems": {}})
    assert "| MiB | in vectors of the parameters | MiB on the host |" in text
    assert f"| {on_host['host_bytes'] / 2**20:.1f} |" in text


def test_convolutions_both_ways():
    problem = create_problem("lenet", "tiny")
    rows = bench_convolutions.measure(problem, 1)
    assert [row["operator"] for row in rows[:2]] == ["hessian", "gauss_newton"]
    # forward tangents, derivatives in the kernels twice, and in the images of the second layer
    assert sum(row["count"] for row in rows[2:]) >= 6
    assert all(0 < row["flops_ratio"] < 3 and row["time_ratio"]["num_samples"] == 1 for row in rows)


@pytest.mark.slow
def test_first_calls():
    with jax.numpy_rank_promotion("allow"):  # the peers' own code relies on it
        rows = bench_compile.measure(create_problem("mlp", "tiny"), 1)
    assert {(row["operator"], row["form"]) for row in rows} >= {("top 5", "cljax"), ("top 5", "matfree Lanczos")}
    assert all(row["seconds"]["median"] > row["second_call_seconds"]["median"] for row in rows)


IN_PLACE_OF_A_RUN = """
import os, pathlib, sys
folder, cache = pathlib.Path(sys.argv[-1]), pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
assert cache.exists() == (folder.name == "second"), "programs are kept from the first command for the second"
cache.mkdir(exist_ok=True)
folder.mkdir()
(folder / "metrics.jsonl").write_text("{}")
"""


@pytest.mark.parametrize("code", [IN_PLACE_OF_A_RUN, "import sys; sys.exit('no such model')", ""])
def test_commands_to_their_first_row(code, monkeypatch):
    monkeypatch.setattr(bench_compile, "COMMAND", ("-c", code))
    if code == IN_PLACE_OF_A_RUN:
        rows = {row["form"]: row["seconds"] for row in bench_compile.measure_command("mlp", 2)}
        assert {seconds["num_samples"] for seconds in rows.values()} == {2}
        for which in ("first", "second"):
            ends = rows[f"cljax track, {which}, to its first row"], rows[f"cljax track, {which}"]
            assert 0 < ends[0]["minimum"] <= ends[1]["minimum"]
    else:
        with pytest.raises(RuntimeError, match="ended with 1: no such model" if code else "ended with 0"):
            bench_compile.measure_command("mlp", 1)


def test_weak_scaling(tmp_path, monkeypatch):
    """A device's work does not grow with their number, one all-reduce adds it up, and a spread basis falls as 1/n."""
    monkeypatch.setattr(bench_scaling, "DEVICES", (1, 8))
    monkeypatch.setattr(bench_scaling, "LAYOUTS", {"whole": ()})
    path = tmp_path / "scaling.md"
    bench_scaling.write("tiny", 32, 2, path, Console())
    one, eight = harness.read_results(path.with_suffix(".json"))["rows"]
    assert eight["flops"] <= 1.05 * one["flops"]
    assert one["collectives"] == {}
    assert eight["collectives"] == {"all-reduce": 1}
    assert eight["basis_bytes"] == one["basis_bytes"] == 4 * 16 * one["num_params"]
    assert one["basis_bytes"] / 8 <= eight["spread_basis_bytes"] <= one["basis_bytes"] / 4  # 10 scores stay whole
    assert path.read_text().count("| whole |") == 2


def test_predicted_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_plan, "SIZES", ("124M",))
    monkeypatch.setattr(bench_plan, "DEVICES", (1, 8))
    path = tmp_path / "plan.md"
    assert main("plan", "--output", path) == 0
    assert "125,226,240 parameters" in path.read_text()
    rows = harness.read_results(path.with_suffix(".json"))["rows"]
    assert {(row["num_devices"], row["layout"]) for row in rows} == {(1, "whole"), (8, "whole"), (8, "split (fsdp)")}
    before = path.with_suffix(".json").read_bytes()
    assert main("plan", "--output", path.with_suffix(".json")) == 2  # the tables would be lost beneath the numbers
    assert path.with_suffix(".json").read_bytes() == before
    assert main("compare", path.with_suffix(".json"), path.with_suffix(".json")) == 2  # it has no problems


def test_tables(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["run", "products", "--problems", "mlp", "mlp", "--size", "tiny", "--batch-size", "5", "--repeats", "0"]
    assert main(*arguments, "--output", results.parent / "second.json") == 0
    printed = capsys.readouterr().out
    assert printed.count("mlp: batch 5, 226 parameters, hidden [8]") == 1
    assert "tangent-kernel linearized" in printed
    assert "pass" in printed
    assert "…" not in printed


def test_problems_of_one_suite_are_none_of_another(tmp_path):
    arguments = ["run", "products", "extremes", "--size", "tiny", "--repeats", "0", "--only", "cljax, budget"]
    assert main(*arguments, "--problems", "mlp", "mlp end, top 5", "--output", tmp_path) == 0
    products, extremes = (harness.read_results(tmp_path / f"{name}.json") for name in ("products", "extremes"))
    assert set(products["problems"]) == {MLP}
    assert {row["group"] for row in extremes["rows"]} == {"mlp end, top 5"}


def test_another_batch_is_another_group(tmp_path, capsys):
    arguments = ["run", "products", "--problems", "mlp", "--size", "tiny", "--repeats", "0", "--output", tmp_path]
    for options in ([], ["--batch-size", "5"], []):
        assert main(*arguments, *options) == 0
    assert capsys.readouterr().out.count(f"{MLP}: is there") == 1
    results = harness.read_results(tmp_path / "products.json")
    assert list(results["problems"]) == [MLP, MLP.replace("4 examples", "5 examples")]
    assert [config["batch_size"] for config in results["problems"].values()] == [4, 5]
    text = report_plain.plain_table("products", results)
    assert "| mlp, 4 examples | hessian fresh |" in text
    assert "| mlp, 5 examples | hessian fresh |" in text
    assert compare(results, results, Console()) == 0
    old = results | {"problems": {"mlp": results["problems"][MLP]}}  # as files were that had one size of each network
    old["rows"] = [row | {"group": "mlp"} for row in results["rows"] if row["group"] == MLP]
    capsys.readouterr()
    compare(old, results, Console())
    printed = capsys.readouterr().out
    assert "some of mlp is of another size: left out" in printed
    assert "mlp, 4 examples: new / old" in printed
    assert "mlp, 5 examples" not in printed


def test_width_reaches_the_model():
    problem = create_problem("resnet18", "tiny", width=4)
    assert problem.params["stem_conv"]["kernel"].shape == (3, 3, 3, 4)
    assert problem.config["options"] == {"width": 4}


def test_all_programs_run_equally_often():
    calls = []
    programs = {
        name: harness.Program(lambda name=name: calls.append(name) or jnp.zeros(()), None, 0.0) for name in "abc"
    }
    seconds = harness.time_interleaved(programs, 4)
    assert {name: len(samples) for name, samples in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert calls[:3] == list("abc")
    assert all(sorted(calls[i : i + 3]) == list("abc") for i in range(3, 15, 3))


def test_spreads():
    assert harness.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == harness.Spread(3.0, 1.0, 2.0, 4.0, 5)
    assert harness.spread([2.0]) == harness.Spread(2.0, 2.0, 2.0, 2.0, 1)
    assert harness.ratio_spread([2.0, 8.0], [1.0, 2.0]) == harness.Spread(3.0, 2.0, 2.5, 3.5, 2)


def scaled(results, **changes):
    """Results whose last row is changed: factors of the median and quartiles, or of the FLOPs."""
    new = json.loads(json.dumps(results))
    row = new["rows"][-1]
    for key, factor in changes.items():
        row[key] = (
            {name: value * factor for name, value in row[key].items()}
            if isinstance(row[key], dict)
            else row[key] * factor
        )
    return new


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"seconds": 100.0}, ["slower"]),
        ({"seconds": 0.01, "time_in_gradients": 0.01}, ["faster", "faster"]),
        ({"flops": 1.1}, ["more"]),
        ({"flops": 0.9}, ["fewer"]),
    ],
)
def test_compare_flags_what_is_beyond_the_spreads(results, changes, words, capsys):
    old = harness.read_results(results)
    assert compare(old, scaled(old, **changes), Console()) == len(words)
    printed = capsys.readouterr().out
    assert re.findall(r"slower|faster|more|fewer", printed) == words
    assert printed.count("1.000") >= len(old["rows"]) - 1


def test_compare_leaves_out_other_sizes_and_says_so(results, capsys):
    old = harness.read_results(results)
    new = scaled(old)
    new["problems"][MLP]["batch_size"] = 8
    for found in new["environments"].values():
        found["device"] = "another"
    assert compare(old, new, Console()) == 0
    printed = capsys.readouterr().out
    assert "note: mlp is of another size: left out" in printed
    assert "note: device differs: " in printed
    assert "lenet, 4 examples: new / old" in printed
    assert "hessian fresh" in printed
    assert "mlp, " not in printed


def test_compare_command(results, capsys):
    assert main("compare", results, results) == 0
    assert "0 beyond the spreads" in capsys.readouterr().out


def test_wrong_input_is_one_line(results, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("[]")
    folder = tmp_path / "is" / "products.json"
    folder.mkdir(parents=True)
    for arguments, expected in [
        (("run", "prodcts"), f"suite: expected one of {SUITES}; got 'prodcts'; did you mean 'products'?"),
        (("run", "products", "--problems", "mpl"), "expected some of 'mlp', 'lenet', 'resnet18'; got 'mpl'"),
        (("run", "extremes", "--size", "tiny", "--problems", "mlp end, top 6"), "got 'mlp end, top 6'; did you mean"),
        (("run", "extremes", "--size", "tiny", "--only", "cljax, jited"), "estimator: expected one of "),
        (("run", "products", "--only", "cljax"), "only: expected a suite that compares estimators (peer_products,"),
        (("run", "products", "--size", "huge"), "size: expected one of auto, tiny, small, full; got 'huge'"),
        (("run", "products", "--repeats", "-1"), "repeats: expected an integer of at least 0, got -1"),
        (("run", "products", "--batch-size", "0"), "batch_size: expected an integer of at least 1, got 0"),
        (("run", "products", "--problems", "mlp", "--width", "4"), "width: expected resnet18"),
        (("run", "products", "--output", folder), "output: expected a file, got the folder"),
        (("run", "products", "--estimators", other), "estimators: expected"),
        (("report", folder), "folder: expected JSON files of suites"),
        (("compare", results, tmp_path / "none.json"), "no such file"),
        (("compare", results, other), "expected benchmark results of format 1, got list"),
        (("compare", __file__, results), "expected a JSON file"),
    ]:
        assert main(*arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("benchmarks: error: ")
        assert expected in message
        assert message.count("\n") == 1


def test_module_runs_as_a_program():
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"benchmarks: error: suite: expected one of {SUITES}; got 'nothing'\n"


def test_help_names_everything_and_its_examples_work(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main("run", "--help")
    printed = capsys.readouterr().out
    for name in (*command_line.SUITES, *PROBLEMS, *command_line.SIZES, *examples(command_line.Run)):
        assert name in printed
    monkeypatch.chdir(tmp_path)
    first, second, third, fourth = (parse(example) for example in examples(command_line.Run))
    dataclasses.replace(first, size="tiny", repeats=1).run(Console())
    assert (second.problems, second.size, second.repeats) == (("resnet18",), "full", 0)
    assert (third.suite, third.size) == (("extremes", "density"), "tiny")
    assert (fourth.names, (ROOT / fourth.estimators[0]).exists()) == (("extremes",), True)
    comparison = parse(examples(command_line.Compare)[0])
    assert comparison.new.exists()
    assert (ROOT / comparison.old).exists()


def test_results_in_the_repository():
    saved = harness.read_results(ROOT / "benchmarks" / "results" / "cpu-small" / "products.json")
    assert {row["problem"] for row in saved["rows"]} == set(PROBLEMS)
    assert all(row["target_met"] in {None, True} for row in saved["rows"])
    assert sum(row["target_met"] is True for row in saved["rows"]) == len(TARGETS) * len(PROBLEMS)
