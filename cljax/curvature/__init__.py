"""Curvature products: linear operators on the space of the parameters or of the scores."""

from cljax.curvature.base import LinearOperator
from cljax.curvature.checks import OperatorReport, check_operator
from cljax.curvature.chunked import chunked_gauss_newton
from cljax.curvature.dense import to_dense, to_lineax, to_scipy
from cljax.curvature.diagonal import precondition, shift
from cljax.curvature.fisher import fisher
from cljax.curvature.function import FunctionOperator
from cljax.curvature.gauss_newton import gauss_newton
from cljax.curvature.hessian import hessian
from cljax.curvature.jacobian import jacobian
from cljax.curvature.kernel import structure_matrix, tangent_kernel
from cljax.curvature.streaming import streamed, streamed_mean
from cljax.curvature.structure_report import LeafReport, StructureReport, structure_report
from cljax.curvature.transforms import compose, restrict

__all__ = [
    "FunctionOperator",
    "LeafReport",
    "LinearOperator",
    "OperatorReport",
    "StructureReport",
    "check_operator",
    "chunked_gauss_newton",
    "compose",
    "fisher",
    "gauss_newton",
    "hessian",
    "jacobian",
    "precondition",
    "restrict",
    "shift",
    "streamed",
    "streamed_mean",
    "structure_matrix",
    "structure_report",
    "tangent_kernel",
    "to_dense",
    "to_lineax",
    "to_scipy",
]
