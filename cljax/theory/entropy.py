"""Generalized entropies of targets: what no model can get below, and what a feature map loses."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._checks import check_positive_int
from cljax.losses.domain import check_targets
from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.regularizer import Regularizer
from cljax.theory.groups import check_groups, check_refines, sum_groups


def conditional_entropy(
    regularizer: Regularizer | FenchelYoungLoss,
    targets: Any,
    groups: Any,
    *,
    weight: Any = None,
    num_classes: int | None = None,
) -> jax.Array:
    """Generalized conditional entropy H_Ω(Y|X) = E[Ω(Y) − Ω(E[Y|X])]: the floor of the empirical risk.

    For every model f, E d_Ω(Y, f(X)) = H_Ω(Y|X) + E d_Ω(E[Y|X], f(X)): no model that sees X alone gets below it. With
    all inputs distinct and one-hot targets it is 0; it matters for repeated or quantized inputs, label noise, and
    features T of the last layers of a network.

    Args:
        regularizer: Ω, or its Fenchel-Young loss.
        targets: points of the domain, shape (n, K), or class labels (n,) with ``num_classes``.
        groups: integer ids of the value of X, shape (n,); None for one group, which gives the entropy of Y. See
            ``theory.group_ids`` and ``theory.quantize``.
        weight: (n,), at least 0 and not all 0; None for all ones.
        num_classes: K, needed for class labels.

    Returns:
        A scalar in the units of the loss, at least 0 but for rounding: nats for one-hot targets and ``shannon()``,
        where it is Shannon's; half the trace of the conditional covariance for ``squared()``.

    Raises:
        ValueError: if targets are out of the domain, groups or weights are of the wrong length, weights are negative,
            not finite or all 0, or ``num_classes`` is missing.
        TypeError: if groups are not integers.

    Example:
        >>> import numpy as np
        >>> from cljax import losses, theory
        >>> labels, inputs = np.array([0, 1, 0, 0]), np.array([5, 5, 7, 7])
        >>> round(theory.conditional_entropy(losses.shannon(), labels, inputs, num_classes=2).item(), 4)
        0.3466

    References:
        Our own definition: that of arXiv:2602.16177 is not at hand. The decomposition is standard for Bregman
        divergences (Banerjee et al., Clustering with Bregman divergences, JMLR 6, 2005).
    """
    regularizer, points, shares = _prepare(regularizer, targets, weight, num_classes)
    ids, num_groups = check_groups("groups", groups, points.shape[0])
    return grouped_entropy(regularizer, points, shares, ids, num_groups)


def bregman_information(
    regularizer: Regularizer | FenchelYoungLoss,
    targets: Any,
    groups: Any,
    *,
    weight: Any = None,
    num_classes: int | None = None,
) -> jax.Array:
    """Bregman information I_Ω(X; Y) = H_Ω(Y) − H_Ω(Y|X): what X tells about Y, Shannon's for ``shannon()``.

    Args:
        regularizer: Ω, or its Fenchel-Young loss.
        targets: as for ``conditional_entropy``.
        groups: integer ids of the value of X, shape (n,).
        weight: (n,), None for all ones.
        num_classes: K, needed for class labels.

    Returns:
        A scalar, at least 0 but for rounding.

    Example:
        >>> import numpy as np
        >>> from cljax import losses, theory
        >>> labels = np.array([0, 1, 0, 1])
        >>> round(theory.bregman_information(losses.shannon(), labels, labels, num_classes=2).item(), 4)
        0.6931

    References:
        Banerjee et al., Clustering with Bregman divergences, JMLR 6 (2005), definition 2.
    """
    regularizer, points, shares = _prepare(regularizer, targets, weight, num_classes)
    ids, num_groups = check_groups("groups", groups, points.shape[0])
    return _entropy_of_means(regularizer, points, shares, ids, num_groups, np.zeros_like(ids), 1)


def information_loss(
    regularizer: Regularizer | FenchelYoungLoss,
    targets: Any,
    groups: Any,
    feature_groups: Any,
    *,
    weight: Any = None,
    num_classes: int | None = None,
) -> jax.Array:
    """Information about Y that a feature map T = φ(X) loses: H_Ω(Y|T) − H_Ω(Y|X).

    It raises the floor of the risk of every model that sees T alone, and can only grow from layer to layer.

    Args:
        regularizer: Ω, or its Fenchel-Young loss.
        targets: as for ``conditional_entropy``.
        groups: integer ids of the value of X, shape (n,).
        feature_groups: integer ids of the value of T, shape (n,); a function of ``groups``.
        weight: (n,), None for all ones.
        num_classes: K, needed for class labels.

    Returns:
        A scalar, at least 0 but for rounding; I(X; Y) − I(T; Y) for ``shannon()``.

    Raises:
        ValueError: if ``feature_groups`` is no function of ``groups``, or as ``conditional_entropy`` does.

    Example:
        >>> import numpy as np
        >>> from cljax import losses, theory
        >>> x, t = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])
        >>> lost = theory.information_loss(losses.shannon(), np.array([0, 1, 1, 1]), x, t, num_classes=2)
        >>> round(lost.item(), 4)
        0.3466

    References:
        Our own definition, on the side of what can be learnt.
    """
    regularizer, points, shares = _prepare(regularizer, targets, weight, num_classes)
    fine, num_fine = check_groups("groups", groups, points.shape[0])
    coarse, num_coarse = check_groups("feature_groups", feature_groups, points.shape[0])
    check_refines(fine, coarse, ("groups", "feature_groups"))
    return _entropy_of_means(regularizer, points, shares, fine, num_fine, coarse, num_coarse)


def _prepare(
    loss: Regularizer | FenchelYoungLoss, targets: Any, weight: Any, num_classes: int | None
) -> tuple[Regularizer, jax.Array, np.ndarray]:
    regularizer = loss.regularizer if isinstance(loss, FenchelYoungLoss) else loss
    if not isinstance(regularizer, Regularizer):
        raise TypeError(f"regularizer: expected a cljax Regularizer, got {type(loss).__name__}; try losses.shannon()")
    given = np.asarray(targets)
    if given.ndim == 1 and num_classes is None:
        raise ValueError("num_classes: expected the number of classes for labels of shape (n,), got None")
    if given.ndim not in {1, 2} or not given.shape[0]:
        raise ValueError(f"targets: expected shape (n, K) or (n,), n at least 1, got {given.shape}")
    shares = np.ones(given.shape[0]) if weight is None else np.asarray(weight, float)
    if shares.shape != given.shape[:1]:
        raise ValueError(f"weight: expected shape ({given.shape[0]},), got {shares.shape}")
    if not (np.isfinite(shares) & (shares >= 0)).all() or not shares.any():
        raise ValueError("weight: expected finite numbers of at least 0, not all 0; give 0 to what does not count")
    floating = given.dtype if np.issubdtype(given.dtype, np.floating) else float
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(floating), jnp.float32)
    shape = given.shape if given.ndim == 2 else (len(given), check_positive_int("num_classes", num_classes, 2))
    points = check_targets(regularizer, given, jax.ShapeDtypeStruct(shape, dtype), weight=shares)
    # sums of weights of any size neither overflow nor vanish
    return regularizer, points, shares / shares.max()


def grouped_entropy(
    regularizer: Regularizer, points: jax.Array, weight: Any, groups: Any, num_groups: int
) -> jax.Array:
    """H_Ω(Y|X) of checked arrays: points (n, K), weights (n,), groups (n,) of ids below ``num_groups``."""
    # in float64 whatever the mode: values of Ω may be many times their difference
    with jax.enable_x64(True):
        points_wide, weight = _widened(regularizer, points, weight)
        return _entropy(regularizer, points_wide, weight, groups, num_groups).astype(points.dtype)


def _entropy_of_means(
    regularizer: Regularizer,
    points: jax.Array,
    weight: Any,
    fine: np.ndarray,
    num_fine: int,
    coarse: np.ndarray,
    num_coarse: int,
) -> jax.Array:
    """H_Ω(Y|T) − H_Ω(Y|X) for T = φ(X): the entropy of the means E[Y|X] given T, so that no entropies cancel."""
    of_group = np.zeros(num_fine, np.int32)
    of_group[fine] = coarse
    with jax.enable_x64(True):
        points_wide, weight = _widened(regularizer, points, weight)
        means, totals = sum_groups(points_wide, weight, fine, num_fine)
        return _entropy(regularizer, means, totals, of_group, num_coarse).astype(points.dtype)


@partial(jax.jit, static_argnames="regularizer")
def _widened(regularizer: Regularizer, points: jax.Array, weight: Any) -> tuple[jax.Array, jax.Array]:
    """Points and weights in float64; on the simplex as exactly as that asks for."""
    points = points.astype(jnp.float64)
    if regularizer.on_simplex:
        points = points / jnp.sum(points, axis=-1, keepdims=True)
    return points, weight.astype(jnp.float64)


@partial(jax.jit, static_argnames=("regularizer", "num_groups"))
def _entropy(regularizer: Regularizer, points: jax.Array, weight: jax.Array, groups: Any, num_groups: int) -> jax.Array:
    means, _ = sum_groups(points, weight, groups, num_groups)
    # a point without weight, or its group's mean, need not be in the domain
    excess = regularizer.value(points) - regularizer.value(means)[groups]
    return jnp.sum(jnp.where(weight == 0, 0, weight * excess)) / jnp.sum(weight)
