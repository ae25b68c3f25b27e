"""The command line: what it writes, and one clear line for whatever a user can get wrong."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import pytest

from cljax import cli, training
from cljax._unread import NOT_READ
from tests.runs import flags, read_rows, tiny

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    config = tiny(tmp_path_factory.mktemp("cli"))
    assert cli.main(["track", *flags(config), "--quiet"]) == 0
    return config.directory


def failure(capsys, *arguments):
    """Exit code and the one line on standard error."""
    code = cli.main(["track", *arguments] if arguments[0].startswith("--") else list(arguments))
    error = capsys.readouterr().err
    assert code != 0
    assert error.endswith("\n")
    assert error.count("\n") == 1
    assert error.startswith("cljax: error: ")
    return error


def test_track_leaves_what_it_says(tmp_path, capsys):
    config = tiny(tmp_path)
    assert cli.main(["track", *flags(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = [pathlib.Path(line.removeprefix("wrote ")) for line in lines if line.startswith("wrote ")]
    assert all(path.exists() for path in written)
    names = {path.name for path in written}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "loss.png", "eigenvalues.png", "structure.png"),
        *("spectrum-12.json", "spectrum-12.png"),
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if path.suffix == ".png")


def test_eigenvalues_that_did_not_converge_are_told(tmp_path, capsys):
    config = tiny(tmp_path, num_steps=2, measure_every=2, max_products=12, tol=1e-6, density_probes=0)
    assert cli.main(["track", *flags(config), "--quiet"]) == 0
    assert re.search(r"note: [1-6] of 6 ends of spectra have an error above --tol 1e-06", capsys.readouterr().out)


@pytest.mark.parametrize("changes", [{"num_bottom": 0}, {"num_top": 0}, {"momentum": 0.0, "density_probes": 0}])
def test_track_with_less_to_track(tmp_path, changes):
    config = tiny(tmp_path, num_steps=4, **changes)
    assert cli.main(["track", *flags(config), "--quiet"]) == 0
    assert (config.directory / "eigenvalues.png").exists()


def test_paths_with_brackets_are_printed_as_they_are(tmp_path, capsys):
    config = tiny(tmp_path, run_dir=str(tmp_path / "ab[" / "run"), num_steps=2, measure_every=2, density_probes=0)
    assert cli.main(["track", *flags(config), "--quiet"]) == 0
    run_dir = config.directory.rename(tmp_path / "[run]")
    capsys.readouterr()
    assert cli.main(["bounds", str(run_dir), "--num-examples", "8"]) == 0
    assert f"wrote {run_dir / 'bounds.png'}\n" in capsys.readouterr().out


def test_resume_and_spectrum(tracked, tmp_path, capsys):
    run_dir = shutil.copytree(tracked, tmp_path / "run")
    assert cli.main(["resume", str(run_dir), "--quiet"]) == 0
    assert cli.main(["spectrum", str(run_dir), "--step", "8", "--num-probes", "1", "--num-steps", "5"]) == 0
    assert (run_dir / "spectrum-8.png").exists()
    assert f"wrote {run_dir / 'spectrum-8.json'}" in capsys.readouterr().out
    assert read_rows(run_dir) == read_rows(tracked)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "minst"], ["minst", "mnist", "cifar10", "digits"]),
        (["--model", "lennet"], ["lennet", "lenet", "resnet18", "vit"]),
        (["--dataset", "mnist", "--data-dir", "nowhere"], ["train-images-idx3-ubyte", "nowhere", "--data-dir"]),
        (["--model-option", "width"], ["model_option", "NAME=VALUE", "width=16"]),
        (["--model-option", "colour=red"], ["colour"]),
        (["--learning-rate", "0"], ["learning_rate", "positive"]),
        (["--momentum", "1"], ["momentum", "[0, 1)"]),
        (["--batch-size", "0"], ["batch_size", "at least 1", "got 0"]),
        (["--measure-examples", "0"], ["measure_examples", "at least 1", "got 0"]),
        (["--num-steps", "-3"], ["num_steps", "-3"]),
        (["--num-top", "0", "--num-bottom", "0"], ["num_top + num_bottom"]),
        (["--num-devices", "1000"], ["num_devices", "at most 8", "got 1000"]),
        (["--num-top", "99999"], ["num_top + num_bottom", "dimension", "got 99999 + 1"]),
        (["--max-products", "2"], ["max_products", "at least", "got 2"]),
        (["--warmup-steps", "600"], ["warmup_steps", "600"]),
        (["--tol", "nan"], ["tol", "(0, 1)"]),
        (["--loss", "bernoulli", "--learning-rate", "nan"], ["learning_rate", "nan"]),
        (["--run-dir", "runs/[a]"], ["run_dir", "brackets", "runs/[a]"]),
        (["--run-dir", "runs/a\\b"], ["run_dir", "backslashes", "runs/a\\b"]),
        (["--learning-rate", "1e300"], ["learning_rate", "at most"]),
        (["--num-steps", "2147483648"], ["num_steps", "below 2**31"]),
        (["--loss", "shanon"], ["--loss", "'shanon'", "'shannon'", "cljax track --help"]),
        (["--coordinator", "localhost:1234"], ["--num-processes", "--process-id", "--distributed"]),
        (["--batch-size", "many"], ["--batch-size", "'many'"]),
        (["--batch-sise", "3"], ["--batch-sise", "--batch-size"]),
        (["trakc"], ["trakc", "track, resume"]),
        (["resume"], ["cljax resume", "Folder of the run"]),
        (["resume", "nothing"], ["config.json", "nothing"]),
        (["spectrum", "nothing"], ["config.json", "nothing"]),
    ],
)
def test_wrong_input_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLJAX_DATA", raising=False)
    error = failure(capsys, *arguments)
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_run_that_exists_is_refused(tracked, capsys):
    error = failure(capsys, *flags(tiny(tracked.parent)))
    assert "--overwrite" in error
    assert f"cljax resume {tracked}" in error


def test_a_checkpoint_that_is_not_there(tracked, capsys):
    assert "[4, 8, 12]" in failure(capsys, "spectrum", str(tracked), "--step", "5")
    assert "num_probes" in failure(capsys, "spectrum", str(tracked), "--num-probes", "0")


def test_a_truncated_data_file_is_named(tmp_path, capsys):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00half")
    error = failure(capsys, "--dataset", "mnist", "--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"))
    assert "train-images-idx3-ubyte.gz" in error
    assert not (tmp_path / "run").exists()


def test_divergence_exits_with_one_and_says_what_to_try(tmp_path, capsys):
    config = tiny(tmp_path, loss="squared", learning_rate=1e4, momentum=0.0, num_steps=40, schedule="constant")
    error = failure(capsys, *flags(config), "--quiet")
    assert "at step" in error
    assert "try a learning rate below 10000" in error
    assert read_rows(config.directory)


def test_a_corrupt_checkpoint_is_a_note(tracked, tmp_path, capsys):
    run_dir = shutil.copytree(tracked, tmp_path / "run")
    for path in (run_dir / "checkpoints" / "12").rglob("*"):
        if path.is_file() and "state" in path.parts:
            path.write_bytes(b"")
    assert cli.main(["resume", str(run_dir), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert f"note: checkpoint {run_dir / 'checkpoints' / '12'} cannot be read" in out
    assert [row["step"] for row in read_rows(run_dir)] == [0, 3, 6, 9, 12]


def test_files_of_a_run_that_are_no_text_are_named(tracked, tmp_path, capsys):
    run_dir = shutil.copytree(tracked, tmp_path / "run")
    rows = run_dir / "metrics.jsonl"
    for first in (b"\xff\xfe", b"3", b"oops"):
        rows.write_bytes(first + b"\n")
        assert f"{rows}: expected one JSON object in each line" in failure(capsys, "resume", str(run_dir))
    (run_dir / "config.json").write_bytes(b"\xff\xfe")
    assert f"{run_dir / 'config.json'}: expected the config" in failure(capsys, "spectrum", str(run_dir))


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fit", interrupted)
    assert cli.main(["track"]) == 130
    assert "cljax resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "message",
    ["RESOURCE_EXHAUSTED: 8 bytes", "INTERNAL: Error dispatching computation: Out of memory allocating 8 bytes."],
)
def test_out_of_memory_is_one_line(message, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(cli, "fit", exhausted)
    assert "try --microbatch-size" in failure(capsys, "track")


@pytest.mark.parametrize("command", [[], ["track"], ["resume"], ["spectrum"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "cljax track" in printed or command in (["resume"], ["spectrum"])
    assert not command or f"$ cljax {command[0]}" in printed


RESULTS = ROOT / "benchmarks/results/cpu-small/lanczos.json"


@pytest.mark.parametrize(
    "command",
    [["cljax", "track", "--help"], ["benchmarks", "run", "--help"], ["benchmarks", "compare", RESULTS, RESULTS]],
)
def test_a_reader_that_has_enough_is_no_error(command):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (NOT_READ, "")


def test_in_a_process_of_its_own(tmp_path):
    """With the compiler's options as users have them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    module = [sys.executable, "-m", "cljax"]
    config = tiny(tmp_path, num_steps=2, measure_every=2, density_probes=0)
    runs = [["track", *flags(config), "--quiet"], ["track", *flags(config)], ["track", "--model", "lennet"], ["trakc"]]
    for arguments, code in zip(runs, (0, 2, 2, 2), strict=True):
        done = subprocess.run(
            [*module, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert done.stderr.count("\n") == 1
    assert training.RunConfig.load(config.directory / "config.json") == config
