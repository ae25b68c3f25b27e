"""SciPy's ARPACK on our own operator, in float32, with as few Lanczos vectors as pay."""

from typing import Any

import numpy as np

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import NotApplicableError, Request

VECTORS = {"ARPACK": None, "ARPACK, few vectors": 3}
"""Kept beyond twice the number of eigenvalues, by name; None for its default."""


def eigsh_run(request: Request, operator: Any, extra: int | None = None) -> Any:
    """The eigenvalues that a request asks for, by eigsh.

    Args:
        request: of the task "extremes".
        operator: a LinearOperator of SciPy.
        extra: vectors that are kept beyond twice the number of eigenvalues, None for its default.

    Returns:
        ``run(seed)``.

    Raises:
        NotApplicableError: if both ends are wanted, and of one more than of the other.
    """
    import scipy.sparse.linalg as sla

    top, bottom = request.num_top, request.num_bottom
    if top and bottom and top != bottom:
        raise NotApplicableError("takes as many at both ends")
    which = "BE" if top and bottom else "LA" if top else "SA"
    number = None if extra is None else min(2 * (top + bottom) + extra, request.dimension - 1)
    options: dict[str, Any] = {"k": top + bottom, "which": which, "tol": request.tolerance, "ncv": number}
    return lambda seed: np.sort(sla.eigsh(operator, v0=request.start(seed), return_eigenvectors=False, **options))


def vectors_kept(extra: int | None) -> str:
    """How many vectors eigsh keeps, for the settings."""
    return f"ncv {'its default (20 at least)' if extra is None else f'2k + {extra}'}"


def _extremes(extra: int | None) -> Any:
    return lambda request: eigsh_run(request, request.scipy_operator, extra)


for _name, _extra in VECTORS.items():
    estimator(
        _name,
        "extremes",
        package="scipy",
        control="tolerance",
        settings=f"eigsh, {vectors_kept(_extra)}, products jitted",
    )(_extremes(_extra))
