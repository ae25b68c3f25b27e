"""Curvature and theory of deep-network training in JAX."""

from cljax import curvature, losses, parallel, spectral, theory, tree
from cljax._batch import Batch

__version__ = "0.1.0"

__all__ = ["Batch", "curvature", "losses", "parallel", "spectral", "theory", "tree"]
