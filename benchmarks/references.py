"""Exact answers in float64, by dense matrices where they fit and by ARPACK where they do not; kept in a folder."""

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Reference
from cljax import curvature, tree
from cljax.curvature import LinearOperator

LARGEST_DENSE = 4500
NUM_EXTREMES = 6


def cache_folder() -> pathlib.Path:
    """Where trained networks and their exact spectra are kept: CLJAX_BENCHMARK_CACHE, or runs/benchmark-cache."""
    return pathlib.Path(os.environ.get("CLJAX_BENCHMARK_CACHE", "runs/benchmark-cache"))


def cached(config: Any, compute: Any) -> dict[str, np.ndarray]:
    """What ``compute`` returns, from a file where it has been computed before.

    Args:
        config: what decides the result, as ``json`` takes it.
        compute: a function without arguments that returns arrays by name.

    Returns:
        The arrays.
    """
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_folder() / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **compute())
        partial.replace(path)
    with np.load(path) as saved:
        return dict(saved)


def reference_of(eigenvalues: np.ndarray, diagonal: np.ndarray | None, source: str) -> Reference:
    """A reference from all eigenvalues.

    Args:
        eigenvalues: (n,), in any order.
        diagonal: (n,) or None.
        source: how they were found.

    Returns:
        The reference.
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))
    return Reference(values, diagonal, (values[:NUM_EXTREMES], values[-NUM_EXTREMES:]), source)


def operator_reference(make_op: Any, config: Any) -> Reference:
    """The reference of an operator that can be made in float64.

    Args:
        make_op: makes it; called while float64 is on.
        config: what decides it, for the cache.

    Returns:
        All eigenvalues and the diagonal up to dimension ``LARGEST_DENSE``, beyond it some extreme eigenvalues.
    """
    found = cached({"reference": config}, lambda: _compute(make_op))
    if "eigenvalues" in found:
        return reference_of(found["eigenvalues"], found["diagonal"], "dense matrix in float64, LAPACK")
    return Reference(None, None, (found["bottom"], found["top"]), "products in float64, ARPACK to 1e-9")


def _compute(make_op: Any) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        op: LinearOperator = make_op()
        if any(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(op.struct)):
            raise TypeError("make_op: expected an operator on float64 vectors")
        if tree.size(op.struct) <= LARGEST_DENSE:
            matrix = np.asarray(curvature.to_dense(op))
            matrix = (matrix + matrix.T) / 2
            return {"eigenvalues": np.linalg.eigvalsh(matrix), "diagonal": np.diag(matrix).copy()}
        import scipy.sparse.linalg as sla

        flat = curvature.to_scipy(op)
        start = np.random.default_rng(0).standard_normal(flat.shape[0])
        ends = {}
        for end, which in (("bottom", "SA"), ("top", "LA")):
            options = {"tol": 1e-9, "v0": start, "ncv": 60, "return_eigenvectors": False}
            ends[end] = np.sort(sla.eigsh(flat, NUM_EXTREMES, which=which, **options))
        return ends
