"""Matrices with known eigenvalues, no entry of which is stored: spectra, and a basis that mixes all coordinates."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.curvature import FunctionOperator, LinearOperator


def _places(n: int) -> np.ndarray:
    return np.arange(n) / n


def flat(n: int) -> np.ndarray:
    """From 3 down to 1, evenly spaced."""
    return 3 - 2 * _places(n)


def polynomial(n: int) -> np.ndarray:
    """k⁻² for k = 1, 2, ..."""
    return 1 / np.arange(1, n + 1) ** 2


def exponential(n: int) -> np.ndarray:
    """0.7ᵏ for k = 0, 1, ...; all but some tens are 0 in float32."""
    return 0.7 ** np.arange(n)


def step(n: int) -> np.ndarray:
    """An eightieth of them 1, the others 0.001."""
    return np.where(_places(n) < 1 / 80, 1.0, 1e-3)


def outliers(n: int) -> np.ndarray:
    """Ten outliers from 2 to 20 over a bulk in [0, 1], dense at 0, like Marchenko and Pastur's with many zeros."""
    bulk = np.sin(np.pi / 2 * _places(n - 10)) ** 6
    return np.concatenate([np.geomspace(20, 2, 10), bulk])


def indefinite(n: int) -> np.ndarray:
    """A bulk of both signs, dense at 0, five outliers above it and three below."""
    bulk = np.sin(np.pi * (_places(n - 8) - 0.5)) ** 3
    return np.concatenate([np.linspace(6, 2, 5), bulk, [-1.5, -2.0, -3.0]])


SPECTRA: dict[str, Callable[[int], np.ndarray]] = {
    "flat": flat,
    "polynomial": polynomial,
    "exponential": exponential,
    "step": step,
    "outliers": outliers,
    "indefinite": indefinite,
}
"""Spectra by name: from the dimension to the eigenvalues."""


def mixed_operator(values: np.ndarray, seed: int = 0) -> LinearOperator:
    """The matrix Q diag(values) Qᵀ with Q = S₁ H S₂ H: signs S, and the Hadamard matrix H, so that nothing is sparse.

    Args:
        values: (n,), eigenvalues; n is a power of 4.
        seed: of the signs.

    Returns:
        The operator on flat float32 vectors.
    """
    parts = _parts(values, seed)
    return FunctionOperator(
        _product, jnp.zeros(len(values), jnp.float32), *(jnp.asarray(x, jnp.float32) for x in parts)
    )


def dense_matrix(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same matrix in float64, written out by an independent program.

    Args:
        values: (n,), eigenvalues.
        seed: of the signs.

    Returns:
        Shape (n, n).
    """
    import scipy.linalg

    values, first, second, _ = _parts(values, seed)
    H = scipy.linalg.hadamard(len(values)) / math.sqrt(len(values))
    Q = first[:, None] * H @ (second[:, None] * H)
    return Q * values[None] @ Q.T


def exact_diagonal(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The diagonal of the same matrix in float64, from the squares of all entries of Q.

    Args:
        values: (n,), eigenvalues.
        seed: of the signs.

    Returns:
        Shape (n,).
    """
    values, _, second, H = _parts(values, seed)
    n, side = len(values), len(H)

    def mix(rows: np.ndarray) -> np.ndarray:
        return (H @ rows.reshape(-1, side, side) @ H).reshape(rows.shape)

    blocks = np.array_split(np.arange(n), max(n // 256, 1))
    return np.concatenate([mix(second * mix(_unit_rows(n, block))) ** 2 @ values for block in blocks])


def torch_product(values: np.ndarray, seed: int = 0) -> Any:
    """The same product on flat float32 tensors of PyTorch, or on the columns of a matrix.

    Args:
        values: (n,), eigenvalues.
        seed: of the signs.

    Returns:
        The function.
    """
    import torch

    parts = (torch.from_numpy(np.asarray(x, np.float32)).to(torch_device()) for x in _parts(values, seed))
    values, first, second, H = parts
    side = H.shape[0]

    def mix(x: Any) -> Any:
        return (H @ x.reshape(-1, side, side) @ H).reshape(x.shape)

    def product(v: Any) -> Any:
        rows = v if v.ndim == 1 else v.T.contiguous()
        found = first * mix(second * mix(values * mix(second * mix(first * rows))))
        return found if v.ndim == 1 else found.T

    return product


def torch_device() -> str:
    """Where PyTorch computes: on the accelerator where JAX does and PyTorch can, else on the CPU."""
    import torch

    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def _parts(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = len(values)
    side = math.isqrt(n)
    if side * side != n or side & (side - 1):
        raise ValueError(f"n: expected a power of 4, got {n}")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2, n))
    H = np.ones((1, 1))
    while len(H) < side:
        H = np.block([[H, H], [H, -H]]) / math.sqrt(2)
    return np.asarray(values, np.float64), signs[0], signs[1], H


def _product(v: jax.Array, values: jax.Array, first: jax.Array, second: jax.Array, H: jax.Array) -> jax.Array:
    def mix(x: jax.Array) -> jax.Array:  # H of n = H of √n on both axes of a square
        return (H @ x.reshape(H.shape) @ H).reshape(-1)

    return first * mix(second * mix(values * mix(second * mix(first * v))))


def _unit_rows(n: int, places: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(places), n))
    rows[np.arange(len(places)), places] = 1
    return rows
