"""The adapters that come with the suite; their peers are imported only when they run."""

import importlib

MODULES = (
    "cljax_",
    "matfree_",
    "traceax_",
    "lobpcg",
    "arpack",
    "curvlinops_",
    "eigenthings",
    "pyhessian_",
    "imate_",
    "skerch_",
    "products",
    "tracking",
    "energies",
)


def load_builtin() -> None:
    """Register all of them."""
    for name in MODULES:
        importlib.import_module(f"benchmarks.estimators.{name}")
