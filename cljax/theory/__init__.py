"""Quantities of conjugate learning theory along training."""

from cljax.theory.convergence import Neighbourhoods, linear_rate_limit, neighbourhoods, num_steps_to
from cljax.theory.energy_split import EnergySplit, gradient_energy_split
from cljax.theory.entropy import bregman_information, conditional_entropy, information_loss
from cljax.theory.generalization import GeneralizationBounds, Sample, generalization_bounds
from cljax.theory.generalized_descent import generalized_gradient_descent
from cljax.theory.gradient_energy import gradient_energy
from cljax.theory.groups import group_ids, quantize
from cljax.theory.ledger_report import LedgerReport, LedgerState
from cljax.theory.risk import RiskBounds, risk_bounds
from cljax.theory.sgd_ledger import SgdLedger, sgd_ledger
from cljax.theory.structure import StructureExtremes, structure_extremes

__all__ = [
    "EnergySplit",
    "GeneralizationBounds",
    "LedgerReport",
    "LedgerState",
    "Neighbourhoods",
    "RiskBounds",
    "Sample",
    "SgdLedger",
    "StructureExtremes",
    "bregman_information",
    "conditional_entropy",
    "generalization_bounds",
    "generalized_gradient_descent",
    "gradient_energy",
    "gradient_energy_split",
    "group_ids",
    "information_loss",
    "linear_rate_limit",
    "neighbourhoods",
    "num_steps_to",
    "quantize",
    "risk_bounds",
    "sgd_ledger",
    "structure_extremes",
]
