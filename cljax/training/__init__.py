"""Tracked training: the tracker for any loop, and complete runs with data, models, checkpoints and logs."""

from cljax.training.config import RunConfig
from cljax.training.loop import DivergenceError, RunResult, fit, resume
from cljax.training.plan import PlanConfig, PlannedRun, plan_run
from cljax.training.preconditioner import preconditioner
from cljax.training.record import Record, Spectrum, TrackerState
from cljax.training.tracker import Tracker

__all__ = [
    "DivergenceError",
    "PlanConfig",
    "PlannedRun",
    "Record",
    "RunConfig",
    "RunResult",
    "Spectrum",
    "Tracker",
    "TrackerState",
    "fit",
    "plan_run",
    "preconditioner",
    "resume",
]
