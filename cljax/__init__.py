"""Curvature and theory of deep-network training in JAX.

``cljax.training`` loads Flax and Orbax when it is first used; nothing here loads a plotting or command-line library.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cljax import curvature, losses, parallel, spectral, theory, tree
from cljax._batch import Batch

if TYPE_CHECKING:
    from cljax import training

__version__ = "0.1.0"

__all__ = ["Batch", "curvature", "losses", "parallel", "spectral", "theory", "training", "tree"]


def __getattr__(name: str) -> Any:
    if name == "training":
        return importlib.import_module("cljax.training")
    raise AttributeError(f"module 'cljax' has no attribute {name!r}")
