"""What numbers depend on besides the settings of a suite: the machine, what is installed, the state of the code."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
import jax.numpy as jnp

import cljax

PACKAGES = (
    "jaxlib",
    "numpy",
    "scipy",
    "torch",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "pyhessian",
    "matfree",
    "traceax",
    "imate",
    "skerch",
)
"""Whose versions are kept, where they are installed."""

VARIABLES = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What sets numbers of threads, kept where it is set."""

OF_A_TIME = ("date", "load", "commit")
"""What changes from one group to the next on one machine."""

_ROOT = pathlib.Path(__file__).parent.parent


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the code; nothing that names the machine but its kind of processor."""
    device = jax.devices()[0]
    return {
        "cljax": cljax.__version__,
        "jax": jax.__version__,
        "backend": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": {name: found for name in VARIABLES if (found := _without_paths(os.environ.get(name, "")))},
        "versions": {"python": platform.python_version(), **_versions()},
        "dtype": str(jnp.zeros(()).dtype),
        "matmul_precision": "highest",
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _without_paths(flags: str) -> str:
    return " ".join(flag for flag in flags.split() if "/" not in flag)


def _processor() -> str | None:
    """As Linux calls it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _commit() -> str | None:
    """Of the code, when this process asked first: results that are written meanwhile leave it as it is."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--", "cljax", "benchmarks", ":!benchmarks/results")
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str | None:
    """What git prints of the repository that this code is the root of, None where it is none."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
