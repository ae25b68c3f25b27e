"""Quantities of conjugate learning theory along training."""

from cljax.theory.generalized_descent import generalized_gradient_descent
from cljax.theory.gradient_energy import gradient_energy
from cljax.theory.structure import StructureExtremes, structure_extremes

__all__ = ["StructureExtremes", "generalized_gradient_descent", "gradient_energy", "structure_extremes"]
