"""Curvature and theory of deep-network training in JAX.

Each module is loaded when it is first used. A command can therefore set JAX up before JAX is there, and ``training``
alone brings Flax and Orbax; nothing here loads a plotting or command-line library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cljax import curvature, losses, parallel, spectral, theory, training, tree
    from cljax._batch import Batch

__version__ = "0.1.0"

__all__ = ["Batch", "curvature", "losses", "parallel", "spectral", "theory", "training", "tree"]


def __getattr__(name: str) -> Any:
    if name == "Batch":
        return importlib.import_module("cljax._batch").Batch
    if name in __all__:
        return importlib.import_module(f"cljax.{name}")
    raise AttributeError(f"module 'cljax' has no attribute {name!r}")
