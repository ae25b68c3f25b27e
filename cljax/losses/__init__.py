"""Losses from convex conjugates."""

from cljax.losses.bernoulli import bernoulli
from cljax.losses.fenchel_young import FenchelYoungLoss, fenchel_young
from cljax.losses.objective import Objective, objective
from cljax.losses.regularizer import Regularizer
from cljax.losses.shannon import shannon
from cljax.losses.squared import squared

__all__ = [
    "FenchelYoungLoss",
    "Objective",
    "Regularizer",
    "bernoulli",
    "fenchel_young",
    "objective",
    "shannon",
    "squared",
]
