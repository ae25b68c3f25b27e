"""Resuming: bit for bit as if the run had never stopped, and past checkpoints and rows that were broken."""

import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from cljax import training
from cljax.training.batches import Batches
from cljax.training.checkpoint import Checkpoints
from cljax.training.run import make_run
from tests.runs import read_rows, tiny
from tests.test_fit import untimed

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return training.fit(tiny(tmp_path_factory.mktemp("whole")), progress=False)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run as a kill before step 11 leaves it: its newest checkpoint is of step 8, its last row of step 9."""
    result = training.fit(tiny(tmp_path_factory.mktemp("stopped")), progress=False, stop_after=11)
    assert not result.finished
    assert [row["step"] for row in result.rows] == [0, 3, 6, 9]
    return result.run_dir


@pytest.fixture
def run_dir(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def newest_state(run_dir):
    like = make_run(training.RunConfig.load(run_dir / "config.json"))[1]
    state = Checkpoints(run_dir / "checkpoints").restore(like).state
    return [np.asarray(jax.random.key_data(x) if x.dtype == state.key.dtype else x) for x in jax.tree.leaves(state)]


def break_files(folder, change):
    """Change every file of a checkpoint's arrays; returns how many."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file() and "/d/" in path.as_posix()]
    for path in files:
        path.write_bytes(change(path.read_bytes()))
    return len(files)


def flip(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 0xFF]) + contents[middle + 1 :]


def test_rows_and_final_state_are_the_same_bit_for_bit(run_dir, whole):
    result = training.resume(run_dir, progress=False)
    assert result.finished
    assert result.notes == ()
    assert untimed(result.rows) == untimed(whole.rows)
    assert untimed(read_rows(run_dir)) == untimed(whole.rows)
    for found, expected in zip(newest_state(run_dir), newest_state(whole.run_dir), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_stopping_twice_and_at_a_checkpoint_changes_nothing(run_dir, whole):
    for stop_after in (9, 12):
        training.resume(run_dir, progress=False, stop_after=stop_after)
    assert untimed(training.resume(run_dir, progress=False).rows) == untimed(whole.rows)


@pytest.mark.parametrize("step", [5, 6])
def test_sigterm_leads_to_a_checkpoint_at_the_next_step(step, tmp_path, whole, monkeypatch):
    """Where a row is due at that step, the run that goes on measures it."""
    original, before = Batches.__call__, signal.getsignal(signal.SIGTERM)

    def signalled(self, at):
        if at == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, at)

    monkeypatch.setattr(Batches, "__call__", signalled)
    result = training.fit(tiny(tmp_path), progress=False)
    assert (result.finished, result.preempted_at) == (False, step)
    assert [row["step"] for row in result.rows] == [0, 3]
    assert Checkpoints(result.run_dir / "checkpoints").steps() == [0, 4, step]
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(Batches, "__call__", original)
    assert untimed(training.resume(result.run_dir, progress=False).rows) == untimed(whole.rows)


def test_a_finished_run_stays_as_it_is(whole):
    before = read_rows(whole.run_dir)
    assert training.resume(whole.run_dir, progress=False).rows == before
    assert read_rows(whole.run_dir) == before


@pytest.mark.parametrize("change", [lambda contents: contents[: len(contents) // 2], flip, lambda _: b""])
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(run_dir, whole, change):
    assert break_files(run_dir / "checkpoints" / "8", change)
    result = training.resume(run_dir, progress=False)
    (note,) = result.notes
    assert str(run_dir / "checkpoints" / "8") in note
    assert "\n" not in note
    assert untimed(result.rows) == untimed(whole.rows)


def test_without_a_readable_checkpoint_nothing_is_lost(run_dir):
    for step in (0, 4, 8):
        break_files(run_dir / "checkpoints" / str(step), lambda _: b"")
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"expected a readable checkpoint, got none .*/8 .*/4 .*/0 "):
        training.resume(run_dir, progress=False)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_killed_before_the_checksums_are_written_the_checkpoint_before_is_there(tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path / "checkpoints", keep=1), {"x": np.arange(3.0)}
    checkpoints.save(1, state, 1)
    with monkeypatch.context() as patched:
        patched.setattr("cljax.training.checkpoint.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, state, 2)
    restored = checkpoints.restore(state)
    assert (restored.step, len(restored.skipped)) == (1, 1)
    checkpoints.save(2, state, 2)
    assert checkpoints.steps() == [2]


def killed(*_):
    raise KeyboardInterrupt


def test_a_row_that_was_cut_off_is_measured_again(run_dir, whole):
    path = run_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert untimed(training.resume(run_dir, progress=False).rows) == untimed(whole.rows)


def test_checkpoints_whose_rows_are_missing_are_told_and_one_before_is_used(run_dir, whole):
    path = run_dir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    result = training.resume(run_dir, progress=False)
    (note,) = result.notes
    assert note == f"checkpoint {run_dir / 'checkpoints' / '8'} needs the first 3 rows of the run, of which 2 exist"
    assert untimed(result.rows) == untimed(read_rows(run_dir)) == untimed(whole.rows)


def test_without_rows_there_is_no_checkpoint_to_use(run_dir):
    (run_dir / "metrics.jsonl").unlink()
    with pytest.raises(
        ValueError, match=r"got none \(.*/8 needs the first 3 rows.*/0 .* of which 0 exist\); run it anew"
    ):
        training.resume(run_dir, progress=False)
    assert not (run_dir / "metrics.jsonl").exists()


def test_what_is_no_run_is_told(tmp_path, run_dir):
    with pytest.raises(ValueError, match="expected a run with config.json"):
        training.resume(tmp_path / "nothing", progress=False)
    (run_dir / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected the configuration of a run"):
        training.resume(run_dir, progress=False)
    (run_dir / "config.json").write_text(json.dumps({"colour": "red"}))
    with pytest.raises(ValueError, match="colour"):
        training.resume(run_dir, progress=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_option", [3], r"expected a list of strings, got \[3\]"),
        ("shard", "fsdp", 'expected a list of strings, got "fsdp"'),
        ("mesh", 3, "expected a string or null, got 3"),
        ("run_dir", ["a"], r'expected a string or null, got \["a"\]'),
        ("num_steps", True, "expected an integer, got true"),
        ("basis_size", "many", 'expected an integer or null, got "many"'),
        ("momentum", "much", 'expected a number, got "much"'),
        ("track_decay", 1, "expected true or false, got 1"),
        ("loss", {}, r"expected a string, got \{\}"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(field, value, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"learning_rate": 1, field: value}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {field}: {message}; mend that line$"):
        training.RunConfig.load(path)


def test_fewer_steps_than_the_run_has_are_told(run_dir):
    path = run_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_steps": 6}))
    result = training.resume(run_dir, progress=False)
    assert result.notes == ("num_steps: the run has 8 steps already, more than 6; none was added",)
    assert result.finished
    assert [row["step"] for row in result.rows] == [0, 3, 6]
    assert Checkpoints(run_dir / "checkpoints").steps() == [0, 4, 8]
