"""Curvature products: linear operators on the space of the parameters or of the scores."""

from cljax.curvature.base import LinearOperator
from cljax.curvature.chunked import chunked_gauss_newton
from cljax.curvature.dense import to_dense, to_lineax, to_scipy
from cljax.curvature.function import FunctionOperator
from cljax.curvature.gauss_newton import gauss_newton
from cljax.curvature.hessian import hessian
from cljax.curvature.jacobian import jacobian
from cljax.curvature.kernel import structure_matrix, tangent_kernel
from cljax.curvature.streaming import streamed, streamed_mean

__all__ = [
    "FunctionOperator",
    "LinearOperator",
    "chunked_gauss_newton",
    "gauss_newton",
    "hessian",
    "jacobian",
    "streamed",
    "streamed_mean",
    "structure_matrix",
    "tangent_kernel",
    "to_dense",
    "to_lineax",
    "to_scipy",
]
