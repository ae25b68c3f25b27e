"""What several models share: activations by name, exact normalisation layers, checks of option values."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cljax._checks import check_positive_int
from cljax._registry import lookup

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
}
"""Activations by name. The second derivative of relu is 0 where it exists: a Hessian then misses the kinks."""


def activation_fn(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation called ``name``.

    Args:
        name: one of ``ACTIVATIONS``.

    Returns:
        The function.
    """
    return lookup("activation", ACTIVATIONS, name)


def check_widths(name: str, value: Any) -> tuple[int, ...]:
    """Positive integers as a tuple.

    Args:
        name: the argument's name, for the message.
        value: what the caller gave.

    Returns:
        The integers.

    Raises:
        TypeError: if it is no tuple or list of integers.
    """
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name}: expected a tuple of positive integers, got {value!r}; write ({value!r},) for one")
    return tuple(check_positive_int(name, width) for width in value)


def group_norm(num_features: int, num_groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group normalisation whose variance is Σ (x - mean)² / n.

    The variance as a difference of two means, the default of the layer, loses digits that second derivatives need.

    Args:
        num_features: channels.
        num_groups: groups; it divides ``num_features``.
        rngs: for the layer.

    Returns:
        The layer.
    """
    return nnx.GroupNorm(num_features, num_groups=num_groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def layer_norm(num_features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation whose variance is Σ (x - mean)² / n, as in ``group_norm``.

    Args:
        num_features: features.
        rngs: for the layer.

    Returns:
        The layer.
    """
    return nnx.LayerNorm(num_features, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def num_groups(width: int) -> int:
    """Largest number of groups of the form 2**k, at most 32, that divides ``width``.

    Args:
        width: channels.

    Returns:
        The number of groups.
    """
    return math.gcd(32, width)
