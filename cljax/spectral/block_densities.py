"""Spectral densities of principal blocks: layer by layer, or any other split of the parameters."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import jax

from cljax._checks import check_key
from cljax.curvature.base import LinearOperator
from cljax.curvature.transforms import restrict
from cljax.spectral.density import spectral_density
from cljax.spectral.host_loop import HostLoop
from cljax.spectral.quadrature import SpectralDensity


def block_densities(
    op: LinearOperator, key: jax.Array, blocks: Mapping[str, Callable[[str], bool]], **kwargs: Any
) -> dict[str, SpectralDensity]:
    """Spectral density of each of several principal blocks of a symmetric operator.

    The blocks' spectra are not parts of the operator's: what couples two blocks is in neither. A product with a block
    costs as much as one with ``op``.

    Args:
        op: symmetric operator.
        key: typed PRNG key.
        blocks: for each name a predicate on the paths of the leaves, as ``curvature.restrict`` takes it; blocks may
            overlap and need not cover all leaves.
        **kwargs: handed on to ``spectral_density``; a checkpoint file gets the block's name at its end, with "%2F" for
            "/", as in a URL.

    Returns:
        A density for each name, in the order of ``blocks``.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a block has no leaf, or a number is below 1.
        TypeError: if ``op`` is no operator, ``key`` no typed key or ``blocks`` no mapping.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(2)}
        >>> op = curvature.hessian(lambda p: jnp.sum(p["kernel"] ** 2) + p["bias"][0] ** 4, params)
        >>> blocks = {name: lambda path, name=name: path == name for name in params}
        >>> found = spectral.block_densities(op, jax.random.key(0), blocks, num_probes=2)
        >>> {name: round(float(density.moments(1)[0])) for name, density in found.items()}
        {'bias': 12, 'kernel': 2}
    """
    check_key("key", key)
    if not isinstance(blocks, Mapping):
        got = type(blocks).__name__
        raise TypeError(f"blocks: expected a mapping from names to predicates on paths, got {got}; name each block")
    keys = jax.random.split(key, max(len(blocks), 1))
    driver, found = kwargs.pop("driver", "auto"), {}
    for (name, predicate), block_key in zip(blocks.items(), keys, strict=False):
        own = driver
        if isinstance(driver, HostLoop) and driver.checkpoint is not None:
            own = dataclasses.replace(driver, checkpoint=f"{os.fspath(driver.checkpoint)}.{quote(str(name), safe=' ')}")
        found[name] = spectral_density(restrict(op, predicate), block_key, driver=own, **kwargs)
    return found
