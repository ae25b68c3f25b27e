"""imate, which multiplies stored matrices in its own code: its products cannot be counted, they are what it is told."""

from typing import Any

import numpy as np

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import Request


@estimator(
    "imate SLQ",
    "trace",
    package="imate",
    control="budget",
    settings="stored float32 matrix, Lanczos degree 10, reorthogonalized, one thread more than none",
    counts=False,
)
def trace(request: Request) -> Any:
    """Stochastic Lanczos quadrature of the identity function."""
    import imate

    matrix = np.ascontiguousarray(request.dense(), np.float32)
    degree = 10
    number = max(request.budget // degree, 1)
    options = {"lanczos_degree": degree, "min_num_samples": number, "max_num_samples": number, "orthogonalize": -1}
    return lambda seed: float(imate.trace(matrix, method="slq", seed=seed, **options))
