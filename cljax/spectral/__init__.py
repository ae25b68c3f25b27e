"""Krylov methods: extreme eigenpairs and spectral densities of symmetric operators."""

from cljax.spectral.density import SpectralDensity, spectral_density
from cljax.spectral.extremes import Eigenpairs, extreme_eigenpairs
from cljax.spectral.lanczos import LanczosResult, lanczos

__all__ = ["Eigenpairs", "LanczosResult", "SpectralDensity", "extreme_eigenpairs", "lanczos", "spectral_density"]
