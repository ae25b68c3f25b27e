"""Losses from convex conjugates."""

from cljax.losses.bernoulli import bernoulli
from cljax.losses.chunked import ChunkedObjective, chunked_objective
from cljax.losses.conjugate import Conjugate, biconjugate, conjugate, legendre_gap
from cljax.losses.domain import check_targets
from cljax.losses.energy import PowerEnergy, power_energy
from cljax.losses.fenchel_young import FenchelYoungLoss, fenchel_young
from cljax.losses.moreau import MoreauEnvelope, moreau_envelope, prox
from cljax.losses.objective import Objective, objective
from cljax.losses.poisson import poisson
from cljax.losses.power import power
from cljax.losses.regularizer import Regularizer
from cljax.losses.shannon import shannon
from cljax.losses.squared import squared
from cljax.losses.tsallis import sparsemax, tsallis

__all__ = [
    "ChunkedObjective",
    "Conjugate",
    "FenchelYoungLoss",
    "MoreauEnvelope",
    "Objective",
    "PowerEnergy",
    "Regularizer",
    "bernoulli",
    "biconjugate",
    "check_targets",
    "chunked_objective",
    "conjugate",
    "fenchel_young",
    "legendre_gap",
    "moreau_envelope",
    "objective",
    "poisson",
    "power",
    "power_energy",
    "prox",
    "shannon",
    "sparsemax",
    "squared",
    "tsallis",
]
