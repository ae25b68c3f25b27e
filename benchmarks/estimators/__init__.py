"""Estimators to compare: small adapters in a registry, one for each way to do one task; a user adds one in one file."""

from benchmarks.estimators.base import CONTROLS, ESTIMATORS, Estimator, estimator, estimators_of
from benchmarks.estimators.builtin import load_builtin
from benchmarks.estimators.request import NotApplicableError, Request, flat_product
from benchmarks.estimators.user_file import load_file

__all__ = [
    "CONTROLS",
    "ESTIMATORS",
    "Estimator",
    "NotApplicableError",
    "Request",
    "estimator",
    "estimators_of",
    "flat_product",
    "load_builtin",
    "load_file",
]
