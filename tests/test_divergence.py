"""A run whose numbers stop being finite: it stops, says where, and keeps what was good."""

import re

import jax
import numpy as np
import pytest

from cljax import training
from cljax.training.checkpoint import Checkpoints
from cljax.training.run import make_run
from tests.runs import read_rows, tiny


def diverging(folder, **changes):
    return tiny(folder, loss="squared", learning_rate=1e4, momentum=0.0, num_steps=60, schedule="constant", **changes)


@pytest.mark.parametrize("measure_every", [5, 60])
def test_the_step_is_named_and_rows_and_checkpoints_are_kept(tmp_path, measure_every):
    config = diverging(tmp_path, measure_every=measure_every)
    with pytest.raises(training.DivergenceError) as error:
        training.fit(config, progress=False)
    message = str(error.value)
    assert "\n" not in message
    assert "learning rate below 10000" in message
    bad_step = int(re.search(r"at step (\d+)", message).group(1))
    rows = read_rows(config.directory)
    assert rows
    assert all(row["step"] <= bad_step and np.isfinite(row["curvature_loss"]) for row in rows)
    steps = Checkpoints(config.directory / "checkpoints").steps()
    assert steps
    assert max(steps) <= bad_step
    like = make_run(config)[1]
    state = Checkpoints(config.directory / "checkpoints").restore(like).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.train.params))


def test_the_step_named_is_the_first_one(tmp_path):
    """How often anybody looks makes no difference."""
    found = set()
    for measure_every in (1, 7, 60):
        with pytest.raises(training.DivergenceError) as error:
            training.fit(
                diverging(tmp_path, measure_every=measure_every, run_dir=str(tmp_path / str(measure_every))),
                progress=False,
            )
        found.add(re.search(r"at step (\d+)", str(error.value)).group(1))
    assert len(found) == 1
