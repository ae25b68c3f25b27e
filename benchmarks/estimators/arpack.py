"""SciPy's ARPACK on our own operator, in float32, with as few Lanczos vectors as pay."""

from typing import Any

import numpy as np

from benchmarks.estimators.base import NotApplicableError, Request, estimator

VECTORS = {"ARPACK": None, "ARPACK, few vectors": 3}


def _extremes(extra: int | None) -> Any:
    def setup(request: Request) -> Any:
        import scipy.sparse.linalg as sla

        operator = request.scipy_operator
        top, bottom = request.num_top, request.num_bottom
        wanted = top + bottom
        if top and bottom and top != bottom:
            raise NotApplicableError("takes as many at both ends")
        which = "BE" if top and bottom else "LA" if top else "SA"
        number = None if extra is None else min(2 * wanted + extra, request.dimension - 1)
        options: dict[str, Any] = {"k": wanted, "which": which, "tol": request.tolerance, "ncv": number}

        def run(seed: int) -> Any:
            return np.sort(sla.eigsh(operator, v0=request.start(seed), return_eigenvectors=False, **options))

        return run

    return setup


for _name, _extra in VECTORS.items():
    estimator(
        _name,
        "extremes",
        package="scipy",
        control="tolerance",
        settings=f"eigsh, ncv {'its default (20 at least)' if _extra is None else f'2k + {_extra}'}, products jitted",
    )(_extremes(_extra))
