"""PyHessian, on one batch, where it keeps the graph of the gradient; its density gets back a function that is gone."""

import contextlib
import sys
from collections.abc import Generator
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.estimators.base import estimator, quadratures
from benchmarks.estimators.request import NotApplicableError, Request
from benchmarks.estimators.torch_operators import seeded

_PEER = {"package": "pyhessian"}
MOST = 100


@contextlib.contextmanager
def counting(request: Request) -> Generator[None]:
    """Count its products, in the one function by which it multiplies.

    Args:
        request: whose counter counts.

    Yields:
        Nothing.
    """
    import pyhessian

    peer = sys.modules[pyhessian.hessian.__module__]  # the class of that name hides the module
    with mock.patch.object(peer, "hessian_vector_product", request.count(peer.hessian_vector_product)):
        yield


def make_hessian(request: Request) -> Any:
    """Its Hessian of the twin, with the graph of the gradient that it keeps for all products.

    Args:
        request: names the case, a network.

    Returns:
        A ``pyhessian.hessian``.
    """
    import warnings

    import pyhessian

    found = request.twin
    found.model.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that backward() with create_graph keeps memory
        return pyhessian.hessian(
            found.model,
            found.criterion,
            data=(found.inputs, found.targets),
            cuda=found.inputs.device.type == "cuda",
        )


@estimator(
    "PyHessian",
    "extremes",
    control="tolerance",
    settings="eigenvalues, at most 100 products for each, its default",
    **_PEER,
)
def extremes(request: Request) -> Any:
    """Power iteration with deflation; it finds the greatest in magnitude, and no other end."""
    if request.num_bottom:
        raise NotApplicableError("finds the greatest in magnitude alone")
    bottom, top = request.case.reference.extremes
    if len(bottom) and -bottom[0] >= top[-request.num_top]:
        raise NotApplicableError("finds the greatest in magnitude, of which some are negative here")
    hessian = make_hessian(request)

    def run() -> Any:
        with counting(request):
            return np.sort(hessian.eigenvalues(maxIter=MOST, tol=request.tolerance, top_n=request.num_top)[0])

    return seeded(run)


def _density(num_runs: int) -> Any:
    def setup(request: Request) -> Any:
        import torch

        hessian = make_hessian(request)
        steps = max(min(request.budget // num_runs, request.dimension), 1)

        def symmetric(T: Any, eigenvectors: bool = True) -> Any:  # what torch.eig returned
            values, vectors = torch.linalg.eigh(T)
            return torch.stack([values, torch.zeros_like(values)], 1), vectors

        def run() -> Any:
            with counting(request), mock.patch.object(torch, "eig", symmetric, create=True):
                nodes, weights = hessian.density(iter=steps, n_v=num_runs)
            return np.asarray(nodes), np.asarray(weights)

        return seeded(run)

    return setup


quadratures(
    "PyHessian",
    "run",
    _density,
    settings="density with torch.eig, which PyTorch no longer has, put back by eigh",
    **_PEER,
)


@estimator(
    "PyHessian", "trace", control="budget", settings="its stopping rule off, which may stop at 2 probes", **_PEER
)
def trace(request: Request) -> Any:
    """Hutchinson's."""
    hessian = make_hessian(request)

    def run() -> Any:
        with counting(request):
            return float(np.mean(hessian.trace(maxIter=request.budget, tol=0.0)))

    return seeded(run)
