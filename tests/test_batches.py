"""Batches of training: every example once an epoch, a function of seed and step, padded without weight."""

import numpy as np
import pytest

from cljax.training.batches import Batches, padded_batch

pytestmark = pytest.mark.fast

INPUTS, TARGETS = np.arange(10.0)[:, None], np.arange(10)


@pytest.mark.parametrize(("size", "multiple_of", "padded"), [(4, 1, 4), (4, 8, 8), (3, 2, 4), (64, 1, 10), (64, 8, 16)])
def test_an_epoch_has_every_example_once(size, multiple_of, padded):
    batches = Batches(INPUTS, TARGETS, size, 0, multiple_of)
    epochs = []
    for epoch in range(2):
        seen = []
        for index in range(batches.steps_per_epoch):
            batch = batches(epoch * batches.steps_per_epoch + index)
            assert batch.targets.shape == batch.weight.shape == (padded,)
            np.testing.assert_array_equal(batch.inputs[:, 0], batch.targets)
            seen += batch.targets[batch.weight > 0].tolist()
        assert sorted(seen) == list(range(10))
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_alone():
    forward, backward, other = (Batches(INPUTS, TARGETS, 4, seed) for seed in (7, 7, 8))
    ahead = [forward(step).targets for step in range(9)]
    for step in reversed(range(9)):
        np.testing.assert_array_equal(backward(step).targets, ahead[step])
    assert any((other(step).targets != ahead[step]).any() for step in range(9))


def test_padding_repeats_an_example_without_weight():
    batch = padded_batch(INPUTS[3:5], TARGETS[3:5], 4)
    assert batch.targets.tolist() == [3, 4, 3, 3]
    assert batch.weight.tolist() == [1, 1, 0, 0]
