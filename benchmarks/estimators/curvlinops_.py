"""curvlinops: its operators, eager or compiled, its own estimators, and ARPACK as its documentation has it."""

from typing import Any

import numpy as np

from benchmarks.estimators.arpack import VECTORS, eigsh_run, vectors_kept
from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import NotApplicableError, Request
from benchmarks.estimators.torch_operators import as_numpy, seeded
from benchmarks.synthetic import torch_device

_PEER = {"package": "curvlinops", "distribution": "curvlinops-for-pytorch"}


def make_operator(request: Request, kind: str = "HessianLinearOperator", **options: Any) -> Any:
    """The operator of a network, or a matrix, whose products count.

    Args:
        request: names the case.
        kind: class of curvlinops, for networks.
        **options: of that class.

    Returns:
        A PyTorchLinearOperator.

    Raises:
        NotApplicableError: if the case is neither.
    """
    import curvlinops

    if request.case.network is None:
        return _matrix(request)
    found = request.twin
    parameters = [p for p in found.model.parameters() if p.requires_grad]
    data = [(found.inputs, found.targets)]
    options = {"check_deterministic": False, "num_data": len(found.inputs)} | options
    operator = getattr(curvlinops, kind)(found.model, _as_module(found.criterion), parameters, data, **options)
    operator._matmat = request.count(operator._matmat, lambda X: int(X[0].shape[-1]))
    return operator


def _as_module(criterion: Any) -> Any:
    """The criterion as a module, with the attribute by which curvlinops knows that it is a mean."""
    import torch

    class Criterion(torch.nn.Module):
        reduction = "mean"

        def forward(self, scores: Any, targets: Any) -> Any:
            return criterion(scores, targets)

    return Criterion()


def _matrix(request: Request) -> Any:
    import torch
    from curvlinops._torch_base import PyTorchLinearOperator

    product, n = request.torch_matrix, request.dimension

    class Matrix(PyTorchLinearOperator):
        SELF_ADJOINT = True

        def __init__(self) -> None:
            super().__init__([(n,)], [(n,)])

        device = property(lambda self: torch.device(torch_device()))
        dtype = property(lambda self: torch.float32)

        def _matmat(self, X: list[Any]) -> list[Any]:
            return [product(X[0])]

    return Matrix()


def _extremes(extra: int | None) -> Any:
    """As its documentation finds eigenvalues."""
    return lambda request: eigsh_run(request, make_operator(request).to_scipy(dtype=np.float32), extra)


for _name, _extra in VECTORS.items():
    estimator(
        f"curvlinops, {_name}",
        "extremes",
        control="tolerance",
        settings=f"Hessian operator to_scipy, eigsh, {vectors_kept(_extra)}",
        **_PEER,
    )(_extremes(_extra))


@estimator(
    "curvlinops Lanczos", "density", control="budget", settings="fast_lanczos, one probe; nodes and weights", **_PEER
)
def density(request: Request) -> Any:
    """Its quadrature before it is smoothed."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    operator = make_operator(request)

    def run() -> Any:
        values, vectors = fast_lanczos(operator, request.budget)
        return as_numpy(values), as_numpy(vectors[0]) ** 2

    return seeded(run)


def _stochastic(name: str, share: int, flat: bool = False) -> Any:
    def setup(request: Request) -> Any:
        import curvlinops

        operator, method = make_operator(request), getattr(curvlinops, name)
        number = request.budget // share * share
        if number >= request.dimension:
            raise NotApplicableError(f"takes fewer than {request.dimension} products")

        def run() -> Any:
            found = method(operator, number)
            if not flat:
                return float(found)
            return as_numpy(found) if request.case.network is None else request.twin.to_flat(found)

        return seeded(run)

    return setup


for _name, _method, _share in (
    ("curvlinops Hutchinson", "hutchinson_trace", 1),
    ("curvlinops Hutch++", "hutchpp_trace", 3),
    ("curvlinops XTrace", "xtrace", 2),
):
    estimator(_name, "trace", control="budget", settings=f"{_method}, defaults", **_PEER)(_stochastic(_method, _share))
for _name, _method, _share in (("curvlinops", "hutchinson_diag", 1), ("curvlinops XDiag", "xdiag", 2)):
    estimator(_name, "diagonal", control="budget", settings=f"{_method}, defaults", **_PEER)(
        _stochastic(_method, _share, flat=True)
    )
