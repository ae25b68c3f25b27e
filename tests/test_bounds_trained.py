"""True bounds cover every example of trained networks, conflicting labels included; the command that reads them off."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import losses, theory
from cljax.cli import main
from cljax.plots import plot_bounds
from cljax.training import fit
from cljax.training.bounds import run_bounds
from cljax.training.datasets import load_dataset
from cljax.training.models import create_model
from tests.problems import SHANNON, SQUARED
from tests.runs import tiny

MODELS = {"mlp": {"hidden": (16,)}, "lenet": {}, "resnet18": {"width": 2}}


def conflicting_digits(num=24):
    """Real images, each of the last eight once more with another label."""
    data = load_dataset("digits", None)
    inputs, labels = data.train_inputs[: num - 8], data.train_targets[: num - 8]
    return cljax.Batch(
        jnp.asarray(np.concatenate([inputs, inputs[-8:]])),
        jnp.asarray(np.concatenate([labels, (labels[-8:] + 1) % 10])),
    )


@pytest.mark.parametrize("loss", [SHANNON, SQUARED], ids=["cross-entropy", "squares"])
@pytest.mark.parametrize("name", MODELS)
def test_every_example_is_covered_along_training(name, loss):
    batch = conflicting_digits()
    model = create_model(name, jax.random.key(0), (8, 8, 1), 10, **MODELS[name])
    objective = losses.objective(model.apply_fn, loss)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(params, opt_state):
        def step(carry, _):
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(objective)(params, batch), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, opt_state), None, length=20)[0]

    groups = theory.group_ids(np.asarray(batch.inputs))
    assert len(np.unique(groups)) == 16
    params, opt_state = model.params, optimizer.init(model.params)
    first = float(objective(params, batch))
    for stage in range(3):
        if stage:
            params, opt_state = train(params, opt_state)
        alone = theory.risk_bounds(model.apply_fn, loss, params, batch)
        grouped = theory.risk_bounds(model.apply_fn, loss, params, batch, groups=groups)
        assert alone.coverage == 1
        assert grouped.coverage == 1
        slack = 64 * np.finfo(np.float32).eps * float(grouped.risk)
        assert abs(grouped.residual) <= slack
        assert grouped.floor - slack <= grouped.risk_lower <= grouped.risk + slack
        assert grouped.risk <= grouped.risk_upper + slack
    assert objective(params, batch) < first
    # labels that a network was not asked about are no matter of its bounds: they have their own gradients
    wrong = theory.risk_bounds(model.apply_fn, loss, params, cljax.Batch(batch.inputs, (batch.targets + 3) % 10))
    assert wrong.coverage == 1
    assert not ((wrong.loss >= alone.lower) & (wrong.loss <= alone.upper)).all()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return fit(tiny(tmp_path_factory.mktemp("bounds")), progress=False).run_dir


def test_bounds_of_a_run(run_dir):
    seen = []
    found = run_bounds(run_dir, num_examples=20, progress_fn=seen.append)
    assert [at.step for at in found.checkpoints] == seen == [4, 8, 12]
    assert found.floor == found.num_duplicates == 0
    for at in found.checkpoints:
        assert at.risk.loss.shape == (20,)
        assert at.risk.coverage == 1
        assert at.risk.kind == "softmax_one_hot"
        np.testing.assert_allclose(at.energy.total, np.mean(at.risk.gradient_energy), rtol=1e-5)
        np.testing.assert_allclose(at.energy.mean_part, at.energy.total, rtol=1e-5)
    gap = found.generalization
    assert abs(gap.gap) <= gap.distribution
    report = json.loads(found.path.read_text())
    assert report["checkpoints"][-1]["coverage"] == 1
    assert report["checkpoints"][-1]["paper"]["kind"] == "paper_softmax"
    assert report["generalization"]["gap"] == gap.gap


def test_the_command_and_its_plot(run_dir, capsys):
    assert main(["bounds", str(run_dir), "--num-examples", "12"]) == 0
    out = capsys.readouterr().out
    assert "softmax_one_hot" in out
    assert "floor of the training risk" in out
    for name in ("bounds.json", "bounds.png"):
        assert (run_dir / name).stat().st_size > 0
    assert main(["bounds", str(run_dir), "--num-examples", "0"]) == 2
    assert "num_examples: expected an integer of at least 1" in capsys.readouterr().err
    assert main(["bounds", str(run_dir / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_squares_have_no_printed_form(tmp_path):
    config = tiny(tmp_path, loss="squared", num_steps=4)
    fit(config, progress=False)
    found = run_bounds(config.directory, num_examples=6)
    assert found.checkpoints[-1].paper is None
    assert found.checkpoints[-1].risk.coverage == 1
    assert plot_bounds(found, tmp_path / "bounds.png", config).stat().st_size > 10_000


def test_broken_checkpoints_are_told(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "12" / "manifest.json").write_text("{")
    found = run_bounds(tmp_path / "copy", num_examples=6)
    assert [at.step for at in found.checkpoints] == [4, 8]
    broken = tmp_path / "copy" / "checkpoints" / "12"
    assert found.notes == (f"checkpoint {broken} cannot be read: its manifest.json is missing or broken",)
