"""Estimators of one's own, from a file."""

import dataclasses
import hashlib
import importlib.util
import pathlib
import sys

from benchmarks.estimators.base import ESTIMATORS, Estimator


def load_file(path: pathlib.Path) -> list[Estimator]:
    """Run a user's file, which registers its estimators.

    Args:
        path: a Python file.

    Returns:
        What it registered.

    Raises:
        ValueError: if there is no such file, it fails, or it registers nothing.
    """
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"estimators: expected a Python file, got {path}")
    before = set(ESTIMATORS)
    spec = importlib.util.spec_from_file_location(f"benchmarks_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise ValueError(f"estimators: {path} failed: {type(error).__name__}: {error}") from error
    new = [key for key in ESTIMATORS if key not in before]
    if not new:
        raise ValueError(f"estimators: expected {path} to register one with @estimator, got none")
    revision = f"file {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    for key in new:
        ESTIMATORS[key] = dataclasses.replace(ESTIMATORS[key], revision=revision)
    return [ESTIMATORS[key] for key in new]
