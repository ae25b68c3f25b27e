"""Checks of arguments before anything is compiled: one line with argument, expected, got and the remedy."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from cljax._typing import PyTree


def check_positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``.

    Args:
        name: the argument's name, for the message.
        value: what the caller gave.
        minimum: the least value allowed.

    Returns:
        The value as a Python int.

    Raises:
        TypeError: if ``value`` is no integer (a traced value included: such arguments must be static).
        ValueError: if ``value`` is below ``minimum``.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name}: expected a static integer, got {type(value).__name__}; pass a Python int") from error
    if number < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {number}")
    return number


def check_inexact_tree(name: str, tree: PyTree) -> None:
    """Require that ``tree`` has entries and that all leaves are real floating-point arrays.

    Args:
        name: the argument's name, for the message.
        tree: any pytree.

    Raises:
        ValueError: if the tree has no leaves, or these no entries.
        TypeError: if a leaf is not a real floating-point array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name}: expected a pytree with at least one array, got no leaves")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = dtype if dtype is not None else type(leaf).__name__
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise TypeError(
                f"{where}: expected a real floating-point array, got {got}; "
                "split integer state and functions out of the parameters, or cast with .astype(float)"
            )
    if not any(leaf.size for _, leaf in leaves):
        raise ValueError(f"{name}: expected at least one number, got arrays without entries")


def check_same_struct(name: str, tree: PyTree, struct: PyTree) -> None:
    """Require that ``tree`` has the structure, shapes and dtypes of ``struct``.

    Args:
        name: the argument's name, for the message.
        tree: what the caller gave.
        struct: a pytree of arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: if structure or a shape differs.
        TypeError: if a dtype differs.
    """
    got: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(struct)
    if got != expected:
        raise ValueError(f"{name}: expected the pytree structure {expected}, got {got}; build it with jax.tree.map")
    pairs = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(struct), strict=True)
    for (path, leaf), want in pairs:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if jnp.shape(leaf) != want.shape:
            raise ValueError(f"{where}: expected shape {want.shape}, got {jnp.shape(leaf)}")
        if jnp.result_type(leaf) != want.dtype:
            raise TypeError(f"{where}: expected dtype {want.dtype}, got {jnp.result_type(leaf)}; cast it with .astype")


def check_tol(name: str, value: Any) -> Any:
    """Require a relative tolerance between 0 and 1, where it can be known; a traced one passes.

    Args:
        name: the argument's name, for the message.
        value: what the caller gave.

    Returns:
        The value.

    Raises:
        ValueError: if it is not in (0, 1).
        TypeError: if it is no number.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a relative tolerance between 0 and 1, got {value!r}") from error
    if not 0 < number < 1:
        raise ValueError(f"{name}: expected a relative tolerance between 0 and 1, got {value}")
    return value


def check_points(name: str, points: jax.Array) -> jax.Array:
    """Require a list of points.

    Args:
        name: the argument's name, for the message.
        points: what the caller gave, as an array.

    Returns:
        The points.

    Raises:
        ValueError: if they have not one axis.
    """
    if points.ndim != 1:
        raise ValueError(f"{name}: expected points of shape (g,), got shape {points.shape}; use jnp.atleast_1d")
    return points


def check_key(name: str, key: Any) -> None:
    """Require one typed PRNG key, as ``jax.random.key`` makes them.

    Args:
        name: the argument's name, for the message.
        key: what the caller gave.

    Raises:
        TypeError: if ``key`` is not a typed PRNG key of shape ().
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or key.shape != ():
        got = f"{dtype}{key.shape}" if dtype is not None else type(key).__name__
        raise TypeError(f"{name}: expected one typed PRNG key, got {got}; make it with jax.random.key(seed)")
