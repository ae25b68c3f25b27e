"""Text: windows of characters, weights of tokens through batches and evaluation, and a run on a text file."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses, parallel, training
from cljax.cli import main
from cljax.training.batches import Batches
from cljax.training.datasets import DataError, load_dataset
from cljax.training.datasets.text import windows
from cljax.training.evaluation import evaluate, make_eval_batches
from cljax.training.metrics import TIMING_FIELDS
from cljax.training.run import make_run
from tests.runs import read_rows

REAL = os.environ.get("CLJAX_DATA")
TEXT = "Ein Döner, zwei Döner.\r\nΩ* ist konvex; 𝔸 auch. " * 5


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("CLJAX_DATA", raising=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(TEXT.encode())
    return path


def counted(x, weight):
    return x.reshape(-1)[weight.reshape(-1) > 0]


@pytest.mark.parametrize("length", [2, 5, 8, 9, 10, 31])
def test_every_token_but_the_first_is_a_target_once(length):
    tokens = np.arange(1, length + 1, dtype=np.int32)
    part = windows(tokens, 4)
    assert part.inputs.shape == part.targets.shape == part.weight.shape == (-(-(length - 1) // 4), 4)
    assert (part.inputs.dtype, part.targets.dtype, part.weight.dtype) == (np.int32, np.int32, np.float32)
    np.testing.assert_array_equal(counted(part.inputs, part.weight), tokens[:-1])
    np.testing.assert_array_equal(counted(part.targets, part.weight), tokens[1:])
    assert part.weight[:-1].all()
    assert not part.inputs[part.weight == 0].any()
    assert set(np.unique(part.weight)) <= {0, 1}


def test_the_parts_give_the_text_back(file):
    data = load_dataset("text", file, context=7)
    assert data.vocabulary == tuple(sorted(set(TEXT)))
    assert data.num_classes == len(set(TEXT))
    assert data.input_shape == (7,)
    assert data.notes == ()
    num_test = len(TEXT) // 10
    for part, text in (("train", TEXT[:-num_test]), ("test", TEXT[-num_test:])):
        inputs, targets, weight = (getattr(data, f"{part}_{what}") for what in ("inputs", "targets", "weight"))
        assert "".join(data.vocabulary[i] for i in counted(inputs, weight)) == text[:-1]
        assert "".join(data.vocabulary[i] for i in counted(targets, weight)) == text[1:]
    assert load_dataset("text", file).input_shape == (64,)


def test_subsets_keep_windows_and_weights_together(file):
    data = load_dataset("text", file, context=7)
    some = load_dataset("text", file, num_train=len(data.train_inputs) - 3, seed=1, context=7)
    rows = {
        x.tobytes() + y.tobytes() + w.tobytes()
        for x, y, w in zip(data.train_inputs, data.train_targets, data.train_weight)
    }
    for row in zip(some.train_inputs, some.train_targets, some.train_weight, strict=True):
        assert b"".join(x.tobytes() for x in row) in rows


def test_batches_carry_the_weights_of_tokens(file):
    data = load_dataset("text", file, context=7)
    batches = Batches(data.train_inputs, data.train_targets, 4, 0, 3, data.train_weight)
    seen = [batches(step) for step in range(batches.steps_per_epoch)]
    assert {batch.weight.shape for batch in seen} == {(6, 7)}
    found = np.concatenate([counted(batch.targets, batch.weight) for batch in seen])
    np.testing.assert_array_equal(np.sort(found), np.sort(counted(data.train_targets, data.train_weight)))


def table(params, tokens):
    return params[tokens]


def test_evaluation_counts_tokens():
    """A table of bigrams, evaluated in NumPy; more windows than fit a batch, the last one uneven."""
    rng = np.random.default_rng(0)
    params, loss = rng.standard_normal((5, 5)).astype(np.float32), losses.fenchel_young(losses.shannon())
    part = windows(rng.integers(0, 5, 10_000).astype(np.int32), 48)
    batches = make_eval_batches(part.inputs, part.targets, 10**6, parallel.data_mesh(8), part.weight)
    assert len(batches) == 2
    inputs, targets = counted(part.inputs, part.weight), counted(part.targets, part.weight)
    log_probabilities = params[inputs] - np.log(np.exp(params[inputs].astype(float)).sum(-1, keepdims=True))
    mean_loss, accuracy = evaluate(table, loss, jnp.asarray(params), batches)
    assert mean_loss == pytest.approx(-np.mean(log_probabilities[np.arange(len(targets)), targets]), rel=1e-5)
    assert accuracy == np.mean(params[inputs].argmax(-1) == targets)


@pytest.mark.parametrize(
    ("name", "context", "match"),
    [
        ("text", 0, "context: expected an integer of at least 1, got 0"),
        ("digits", 8, "context: expected none for images, got 8"),
    ],
)
def test_bad_context(name, context, match, file):
    with pytest.raises(ValueError, match=match):
        load_dataset(name, file, context=context)


def test_bad_files_are_one_line(tmp_path, monkeypatch):
    for contents, match in (
        (b"", "got an empty file"),
        (b"abc\xff", "text in UTF-8, got byte 3"),
        (b"short", "20 char"),
    ):
        path = tmp_path / "bad.txt"
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=match) as error:
            load_dataset("text", path)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        load_dataset("text", tmp_path / "nowhere.txt")
    for folder in (None, tmp_path):
        with pytest.raises(DataError, match=r"text: expected a text file, got .*--data-dir.*CLJAX_DATA"):
            load_dataset("text", folder)
    monkeypatch.setenv("CLJAX_DATA", str(path))
    path.write_text("long enough to be a text")
    assert load_dataset("text").num_classes == 12


def test_another_shakespeare_is_noted(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("To be, or not to be, that is the question.")
    (note,) = load_dataset("tinyshakespeare", tmp_path).notes
    assert "42 of 1,115,394 bytes; not the official file" in note


def test_real_shakespeare():
    if not REAL or not (Path(REAL) / "text" / "tinyshakespeare.txt").is_file():
        pytest.skip("needs the real file: CLJAX_DATA names no folder with text/tinyshakespeare.txt")
    data = load_dataset("tinyshakespeare", REAL, context=128)
    assert data.notes == ()
    assert data.num_classes == 65
    assert "".join(data.vocabulary[i] for i in data.train_inputs[0, :14]) == "First Citizen:"
    assert data.train_weight.sum() == 1_115_394 - 111_539 - 1
    assert data.test_weight.sum() == 111_539 - 1


def run_flags(file, run_dir):
    options = {
        "dataset": "text",
        "data-dir": file,
        "context": 6,
        "model": "transformer",
        "model-option": "depth=1 width=8 heads=2",
        "num-steps": 8,
        "batch-size": 8,
        "learning-rate": 0.5,
        "measure-every": 4,
        "measure-examples": 12,
        "num-top": 1,
        "num-bottom": 0,
        "max-products": 12,
        "checkpoint-every": 4,
        "density-probes": 1,
        "density-steps": 6,
        "num-devices": 1,
        "run-dir": run_dir,
    }
    return [word for name, value in options.items() for word in (f"--{name}", *str(value).split(" "))]


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMING_FIELDS} for row in rows]


def test_a_run_trains_on_tokens_and_refuses_bounds(file, tmp_path, capsys):
    """Without measurements of curvature, whose compilation takes most of the time of the test below."""
    settings = {"dataset": "text", "data_dir": str(file), "context": 6, "model": "transformer", "num_devices": 1}
    options = ("depth=1", "width=8", "heads=2")
    config = training.RunConfig(
        **settings, model_option=options, learning_rate=0.5, batch_size=8, measure_examples=10**6, run_dir=str(tmp_path)
    )
    run, state = make_run(config)
    assert run.curvature_batch.weight.shape == run.curvature_batch.targets.shape
    assert float(run.curvature_batch.weight.sum()) == len(TEXT) - len(TEXT) // 10 - 1
    for batch in (run.batches(0), *run.train_eval, *run.test_eval):
        assert batch.weight.shape == batch.targets.shape
    assert len(run.notes) == 1
    assert run.notes[0].startswith("structure matrices are not measured")
    before, _ = evaluate(run.apply_fn, run.loss, state.train.params, run.test_eval)
    train = state.train
    for step in range(8):
        train = run.step_fn(train, run.put(run.batches(step)))
    assert evaluate(run.apply_fn, run.loss, train.params, run.test_eval)[0] < before < 1.1 * np.log(len(set(TEXT)))
    config.save(tmp_path / "config.json")
    assert main(["bounds", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run_dir: expected a run with one prediction an example, got text" in error


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_text_from_the_command_line(file, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["track", "--quiet", *run_flags(file, run_dir)]) == 0
    assert "structure matrices are not measured" in " ".join(capsys.readouterr().out.split())
    rows = read_rows(run_dir)
    assert [row["step"] for row in rows] == [0, 4, 8]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    for row in rows:
        assert "structure_min" not in row
        assert 0 < row["gradient_norm"] ** 2 <= row["gradient_energy"]
        assert np.isfinite([row["hessian_top"][0], row["gauss_newton_top"], row["test_loss"]]).all()
    for name in ("loss.png", "eigenvalues.png", "structure.png", "spectrum-8.png"):
        assert (run_dir / name).stat().st_size > 0
    assert json.loads((run_dir / "spectrum-8.json").read_text())["hessian"]["dimension"] > 0

    config = training.RunConfig.load(run_dir / "config.json")
    again = {"run_dir": str(tmp_path / "again"), "density_probes": 0}
    stopped = training.fit(training.RunConfig(**vars(config) | again), progress=False, stop_after=5)
    assert untimed(training.resume(stopped.run_dir, progress=False).rows) == untimed(rows)
