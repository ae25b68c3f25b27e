"""A run small enough for tests."""

import json

import numpy as np

from cljax.training.config import RunConfig


def tiny(folder, **changes):
    settings = {
        "num_train": 150,
        "num_test": 60,
        "model_option": ("hidden=(8,)",),
        "num_steps": 12,
        "batch_size": 32,
        "measure_every": 3,
        "measure_examples": 40,
        "structure_examples": 8,
        "num_top": 2,
        "max_products": 40,
        "checkpoint_every": 4,
        "density_probes": 2,
        "density_steps": 8,
        "num_devices": 1,
        "run_dir": str(folder / "run"),
    }
    return RunConfig(**{**settings, **changes})


def flags(config):
    """The same run as arguments of ``cljax track``."""
    words = []
    for name, value in vars(config).items():
        if isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}"] * value
        elif value is not None and value != ():
            words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def read_rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_close(found, expected, rtol=1e-3):
    """What two JSON files say, numbers in float32: lists as a whole, and residuals in units of all that is said."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            assert_close(found[name], expected[name], rtol)
    elif isinstance(found, list) and found and isinstance(found[0], dict | str):
        for pair in zip(found, expected, strict=True):
            assert_close(*pair, rtol)
    elif isinstance(found, str):
        assert found == expected
    else:
        found, expected = (np.array(x, float) for x in (found, expected))
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(initial=0))
