"""Losses from convex conjugates."""

from cljax.losses.bernoulli import bernoulli
from cljax.losses.fenchel_young import FenchelYoungLoss, fenchel_young
from cljax.losses.regularizer import Regularizer
from cljax.losses.shannon import shannon
from cljax.losses.squared import squared

__all__ = ["FenchelYoungLoss", "Regularizer", "bernoulli", "fenchel_young", "shannon", "squared"]
