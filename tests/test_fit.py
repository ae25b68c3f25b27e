"""A run: its rows, its files, and that they depend on nothing but the configuration."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cljax import training
from cljax.training.checkpoint import Checkpoints
from cljax.training.loop import _check_free, _create
from cljax.training.metrics import TIMING_FIELDS, EventLog
from tests.runs import read_rows, tiny

FIELDS = {
    *("step", "epoch", "learning_rate", "two_over_lr"),
    *("train_loss", "test_loss", "train_accuracy", "test_accuracy", "curvature_loss"),
    *("gradient_norm", "gradient_energy", "hessian_products", "hessian_orthogonality"),
    *(
        f"hessian_{end}{what}"
        for end in ("top", "bottom")
        for what in ("", "_residual", "_error", "_status", "_overlap")
    ),
    *("hessian_asymmetry", "hessian_method", "hessian_jumped", "hessian_cold"),
    *(f"gauss_newton_{what}" for what in ("top", "residual", "error", "status", "products")),
    *("structure_min", "structure_max", "structure_spread", "seconds_training", "seconds_measuring"),
}


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMING_FIELDS} for row in rows]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return training.fit(tiny(tmp_path_factory.mktemp("fit")), progress=False)


def test_the_event_file_is_made_with_the_first_row(tmp_path):
    log = EventLog(tmp_path / "events")
    log.close()
    assert not (tmp_path / "events").exists()
    log.append({"step": 0, "train_loss": 1.0})
    log.close()
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_rows(result):
    rows = result.rows
    assert result.finished
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12]
    assert read_rows(result.run_dir) == rows
    for row in rows:
        assert row.keys() == FIELDS
        assert len(row["hessian_top"]) == len(row["hessian_top_residual"]) == len(row["hessian_top_status"]) == 2
        assert row["hessian_top"] == sorted(row["hessian_top"], reverse=True)
        assert row["epoch"] == pytest.approx(row["step"] / 5)
        assert row["gradient_energy"] >= row["gradient_norm"] ** 2
        assert row["structure_spread"] == pytest.approx(math.log(row["structure_max"] / row["structure_min"]), abs=1e-5)
        rate = 0.05 * (1 + math.cos(math.pi * row["step"] / 12)) / 2
        assert row["learning_rate"] == pytest.approx(rate, abs=1e-8)
        assert row["two_over_lr"] == pytest.approx(2 / row["learning_rate"]) if row["step"] < 12 else math.inf
        assert row["seconds_training"] >= 0 < row["seconds_measuring"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_files(result):
    directory = result.run_dir
    saved = json.loads((directory / "config.json").read_text())
    assert training.RunConfig.load(directory / "config.json") == tiny(directory.parent)
    assert saved["momentum"] == 0.9
    assert Checkpoints(directory / "checkpoints").steps() == [4, 8, 12]
    assert list((directory / "tensorboard").iterdir())
    assert not list(directory.rglob("*.partial"))


def test_the_same_configuration_gives_the_same_rows(result, tmp_path):
    again = training.fit(tiny(tmp_path), progress=False)
    assert untimed(again.rows) == untimed(result.rows)
    other = training.fit(tiny(tmp_path, seed=1, run_dir=str(tmp_path / "other")), progress=False)
    assert other.rows[0]["train_loss"] != result.rows[0]["train_loss"]


def test_eight_devices_train_as_one_does(result, tmp_path):
    """The same sums in another order; eigenvalues apart by no more than their residuals and that rounding."""
    eight = training.fit(tiny(tmp_path, num_devices=8), progress=False)
    for one, row in zip(result.rows, eight.rows, strict=True):
        for name in ("train_loss", "test_loss", "gradient_norm", "gradient_energy", "structure_max"):
            assert row[name] == pytest.approx(one[name], rel=1e-4)
        slack = np.array(one["hessian_top_residual"]) + row["hessian_top_residual"]
        gap = np.abs(np.array(one["hessian_top"]) - row["hessian_top"])
        assert (gap <= slack + 1e-4 * one["hessian_top"][0]).all()


def test_measuring_does_not_change_training(result, tmp_path):
    rare = training.fit(tiny(tmp_path, measure_every=12, num_top=1, num_bottom=0), progress=False)
    assert rare.rows[-1]["train_loss"] == result.rows[-1]["train_loss"]
    assert rare.rows[-1]["test_accuracy"] == result.rows[-1]["test_accuracy"]


def test_a_folder_that_exists_is_refused_and_kept(result, tmp_path):
    config = dataclasses.replace(tiny(tmp_path), run_dir=str(result.run_dir))
    before = (result.run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"run_dir: .*--overwrite.*cljax resume"):
        training.fit(config, progress=False)
    assert (result.run_dir / "metrics.jsonl").read_bytes() == before
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no run"):
        training.fit(tiny(tmp_path, run_dir=str(foreign)), overwrite=True, progress=False)
    assert (foreign / "chapter.tex").exists()


def test_overwrite_starts_anew(tmp_path):
    training.fit(tiny(tmp_path, num_steps=5), progress=False)
    result = training.fit(tiny(tmp_path, num_steps=2, measure_every=2), overwrite=True, progress=False)
    assert [row["step"] for row in read_rows(result.run_dir)] == [0, 2]
    assert Checkpoints(result.run_dir / "checkpoints").steps() == [0, 2]


def test_a_value_of_another_type_leaves_the_run_that_is_there(result):
    for changes in ({"run_dir": result.run_dir}, {"batch_size": np.int64(8)}, {"tol": np.float32(0.1)}):
        with pytest.raises(TypeError, match=f"{next(iter(changes))}: expected"):
            dataclasses.replace(training.RunConfig(run_dir=str(result.run_dir)), **changes)
    assert (result.run_dir / "metrics.jsonl").exists()


def test_overwrite_replaces_runs_only(tmp_path):
    config = tiny(tmp_path)
    config.directory.mkdir()
    (config.directory / "config.json").write_text('{"model_type": "other"}')
    (config.directory / "weights.bin").write_text("precious")
    with pytest.raises(ValueError, match="exists and is no run"):
        training.fit(config, overwrite=True, progress=False)
    config.save(config.directory / "config.json")
    with pytest.raises(ValueError, match="exists and is no run"):
        training.fit(config, overwrite=True, progress=False)
    assert (config.directory / "weights.bin").read_text() == "precious"


@pytest.fixture
def made(tmp_path):
    """Make the folder of a tiny run, without its steps."""

    def make(overwrite):
        config = tiny(tmp_path)
        _check_free(config.directory, overwrite)
        _create(config)
        return config.directory

    return make


def test_overwrite_does_not_mind_what_a_crash_left(made):
    directory = made(False)
    for name in ("config.json", "metrics.jsonl", "loss.png", "spectrum-4.json"):
        (directory / f"{name}.partial").touch()
    assert [path.name for path in made(True).iterdir()] == ["config.json"]
    (directory / "thesis.tex.partial").touch()
    with pytest.raises(ValueError, match="exists and is no run"):
        made(True)


@pytest.mark.parametrize("there", ["nothing", "a folder", "a run"])
def test_a_link_is_kept_and_the_run_is_where_it_leads(there, made, tmp_path):
    target, link = tmp_path / "disk" / "target", tmp_path / "run"
    if there == "a run":
        (made(False) / "checkpoints").mkdir()
        target.parent.mkdir()
        link.rename(target)
    elif there == "a folder":
        target.mkdir(parents=True)
    link.symlink_to(target)
    made(there == "a run")
    assert link.is_symlink()
    assert [path.name for path in target.iterdir()] == ["config.json"]


def test_an_unknown_schedule_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schedule: expected one of .*got 'linear'"):
        tiny(tmp_path, schedule="linear")
