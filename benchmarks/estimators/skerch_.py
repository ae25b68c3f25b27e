"""skerch: sketched eigenvalues, and its exchangeable estimator of trace and diagonal."""

import importlib.util
from typing import Any

import numpy as np

from benchmarks.estimators.base import estimator
from benchmarks.estimators.eigenthings import make_operator as _hessian
from benchmarks.estimators.request import NotApplicableError, Request
from benchmarks.estimators.torch_operators import as_numpy
from benchmarks.synthetic import torch_device

_PEER = {"package": "skerch", "control": "budget"}


class _Operator:
    """What skerch multiplies: an object with a shape, @ on both sides."""

    def __init__(self, request: Request) -> None:
        n = request.dimension
        self.shape = (n, n)
        if request.case.network is None:
            self._product = request.torch_matrix
        else:
            import torch

            one = _hessian(request).matvec  # the product of PyTorch alone, by the plainest of the packages
            self._product = lambda x: one(x) if x.ndim == 1 else torch.stack([one(v) for v in x.T.contiguous()], 1)

    def __matmul__(self, x: Any) -> Any:
        return self._product(x.contiguous())

    def __rmatmul__(self, x: Any) -> Any:
        return self._product(x.T.contiguous()).T


def _check_network(request: Request) -> None:
    if request.case.network is not None and importlib.util.find_spec("hessian_eigenthings") is None:
        raise NotApplicableError("takes its products of networks from hessian-eigenthings, which is missing")


@estimator("skerch HMT", "extremes", settings="seigh, half of the products for the sketch, half for the basis", **_PEER)
def extremes(request: Request) -> Any:
    """One pass of a randomized range finder."""
    import torch
    from skerch.algorithms import seigh

    _check_network(request)
    operator, number = _Operator(request), request.budget // 2
    if number < request.num_top + request.num_bottom:
        raise NotApplicableError("fewer products than eigenvalues")

    def run(seed: int) -> Any:
        values = seigh(operator, torch_device(), torch.float32, number, seed=seed, recovery_type="hmt")[0]
        values = np.sort(as_numpy(values))
        return np.concatenate([values[: request.num_bottom], values[len(values) - request.num_top :]])

    return run


def _exchangeable(answer: str) -> Any:
    def setup(request: Request) -> Any:
        import torch
        from skerch.algorithms import xhutchpp

        _check_network(request)
        operator, half = _Operator(request), request.budget // 2

        def run(seed: int) -> Any:
            found = xhutchpp(operator, torch_device(), torch.float32, x_dims=half, seed=seed)
            if answer == "tr":
                return float(found["tr"])
            return as_numpy(found["diag"]) if request.case.network is None else request.twin.to_flat(found["diag"])

        return run

    return setup


estimator("skerch XTrace", "trace", settings="xhutchpp, all products by twos", **_PEER)(_exchangeable("tr"))
estimator("skerch XDiag", "diagonal", settings="xhutchpp, all products by twos", **_PEER)(_exchangeable("diag"))
