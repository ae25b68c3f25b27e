"""Quantities of conjugate learning theory along training."""

from cljax.theory.entropy import bregman_information, conditional_entropy, information_loss
from cljax.theory.generalized_descent import generalized_gradient_descent
from cljax.theory.gradient_energy import gradient_energy
from cljax.theory.groups import group_ids, quantize
from cljax.theory.risk import RiskBounds, risk_bounds
from cljax.theory.structure import StructureExtremes, structure_extremes

__all__ = [
    "RiskBounds",
    "StructureExtremes",
    "bregman_information",
    "conditional_entropy",
    "generalized_gradient_descent",
    "gradient_energy",
    "group_ids",
    "information_loss",
    "quantize",
    "risk_bounds",
    "structure_extremes",
]
