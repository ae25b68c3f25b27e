"""hessian-eigenthings 1.0: its Lanczos, reorthogonalized at every length, on its own Hessian operator."""

from typing import Any

import numpy as np

from benchmarks.estimators.base import estimator, quadratures
from benchmarks.estimators.request import NotApplicableError, Request
from benchmarks.estimators.torch_operators import as_numpy
from benchmarks.synthetic import torch_device

_PEER = {"package": "hessian_eigenthings", "distribution": "hessian-eigenthings"}


def make_operator(request: Request, kind: str = "hessian") -> Any:
    """Its operator of a network, or of a matrix, whose products count.

    Args:
        request: names the case.
        kind: "hessian" or "gauss_newton", for networks.

    Returns:
        A CurvatureOperator.
    """
    import hessian_eigenthings as peer

    if request.case.network is None:
        return peer.LambdaOperator(request.torch_matrix, request.dimension, torch_device())
    found = request.twin
    data = [(found.inputs, found.targets)]
    if kind == "hessian":
        operator = peer.HessianOperator(found.model, data, peer.supervised_loss(found.criterion))
    else:
        outer = peer.supervised_loss_of_output(found.criterion)
        operator = peer.GGNOperator(found.model, data, peer.supervised_forward, outer)
    operator.matvec = request.count(operator.matvec)
    return operator


@estimator(
    "eigenthings Lanczos", "extremes", control="budget", settings="reorthogonalize=True, which LA or SA", **_PEER
)
def extremes(request: Request) -> Any:
    """So many steps; both ends take two runs, which share the budget."""
    import hessian_eigenthings as peer

    operator = make_operator(request)
    ends = [(which, k) for which, k in (("SA", request.num_bottom), ("LA", request.num_top)) if k]
    steps = min(request.budget // len(ends), request.dimension)
    if steps < max(k for _, k in ends):
        raise NotApplicableError("fewer products than eigenvalues")

    def run(seed: int) -> Any:
        found = [
            as_numpy(
                peer.lanczos(operator, k=k, max_iter=steps, which=which, reorthogonalize=True, seed=seed).eigenvalues
            )
            for which, k in ends
        ]
        return np.sort(np.concatenate(found))

    return run


def _density(num_runs: int, smoothed: bool = False) -> Any:
    def setup(request: Request) -> Any:
        import hessian_eigenthings as peer

        operator = make_operator(request)
        steps = max(min(request.budget // num_runs, request.dimension), 1)

        def run(seed: int) -> Any:
            found = peer.spectral_density(operator, num_runs=num_runs, lanczos_steps=steps, seed=seed)
            if smoothed:
                return as_numpy(found.grid), as_numpy(found.density)
            kept = ~np.isnan(as_numpy(found.raw_eigenvalues))
            return as_numpy(found.raw_eigenvalues)[kept], as_numpy(found.raw_weights)[kept]

        return run

    return setup


quadratures("eigenthings Lanczos", "run", _density, settings="spectral_density; its raw nodes and weights", **_PEER)
_SMOOTHED = "spectral_density, defaults: Gaussian bumps as wide as range / steps on its grid of 10,000 points"
estimator("eigenthings Lanczos, 4 runs, its own density", "density", control="budget", settings=_SMOOTHED, **_PEER)(
    _density(4, smoothed=True)
)


def _trace(method: str) -> Any:
    def setup(request: Request) -> Any:
        import hessian_eigenthings as peer

        operator = make_operator(request)
        options: dict[str, Any] = {"num_matvecs": request.budget, "method": method}
        return lambda seed: float(peer.trace(operator, seed=seed, **options).estimate)

    return setup


estimator("eigenthings Hutchinson", "trace", control="budget", settings="random signs", **_PEER)(_trace("hutchinson"))
estimator("eigenthings Hutch++", "trace", control="budget", settings="its default", **_PEER)(_trace("hutch++"))
