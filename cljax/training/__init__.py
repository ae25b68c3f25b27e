"""Tracked training: the tracker for any loop, and complete runs with data, models, checkpoints and logs."""

from cljax.training.config import RunConfig
from cljax.training.loop import DivergenceError, RunResult, fit, resume
from cljax.training.tracker import Record, Spectrum, Tracker, TrackerState

__all__ = [
    "DivergenceError",
    "Record",
    "RunConfig",
    "RunResult",
    "Spectrum",
    "Tracker",
    "TrackerState",
    "fit",
    "resume",
]
