"""Krylov methods and random probes: extreme eigenpairs, spectral densities and functionals of symmetric operators."""

from cljax.spectral.block_densities import block_densities
from cljax.spectral.chebyshev import chebyshev_density
from cljax.spectral.chebyshev_density import ChebyshevDensity
from cljax.spectral.cost import Cost, predict_cost
from cljax.spectral.density import SpectralDensity, spectral_density
from cljax.spectral.diagonal import diagonal
from cljax.spectral.eigenpairs import Eigenpairs, Status
from cljax.spectral.eigenvalue_count import eigenvalue_count
from cljax.spectral.estimate import Estimate
from cljax.spectral.extremes import extreme_eigenpairs
from cljax.spectral.functions import FunctionProduct, apply_function
from cljax.spectral.host_loop import HostLoop
from cljax.spectral.lanczos import LanczosResult, lanczos
from cljax.spectral.log_density import LogDensity
from cljax.spectral.log_determinant import log_determinant
from cljax.spectral.memory import Memory
from cljax.spectral.norms import frobenius_norm
from cljax.spectral.plan import Plan, PlannedMode, plan
from cljax.spectral.rates import Rates, measure_rates
from cljax.spectral.trace import trace

__all__ = [
    "ChebyshevDensity",
    "Cost",
    "Eigenpairs",
    "Estimate",
    "FunctionProduct",
    "HostLoop",
    "LanczosResult",
    "LogDensity",
    "Memory",
    "Plan",
    "PlannedMode",
    "Rates",
    "SpectralDensity",
    "Status",
    "apply_function",
    "block_densities",
    "chebyshev_density",
    "diagonal",
    "eigenvalue_count",
    "extreme_eigenpairs",
    "frobenius_norm",
    "lanczos",
    "log_determinant",
    "measure_rates",
    "plan",
    "predict_cost",
    "spectral_density",
    "trace",
]
