"""Whether targets are in the domain of a regularizer, before anything is computed with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.regularizer import Regularizer

_REMEDY = {
    "negative": "clip or count again",
    "sum": "divide each row by its sum",
    "large": "scale the targets",
    "above": "divide by the number of trials, or use losses.poisson() for counts",
}


def check_targets(loss: FenchelYoungLoss | Regularizer, targets: Any, scores: Any, *, weight: Any = None) -> jax.Array:
    """Require that all targets are in the domain of Ω; on the host, with concrete values.

    Inside of jit, where there are none, the targets are only encoded.

    Args:
        loss: a Fenchel-Young loss or its regularizer; another function has no domain and passes.
        targets: as the loss takes them: soft targets of shape (..., K), or labels or values of shape (...).
        scores: shape and dtype of the scores, (..., K): an array or a ``jax.ShapeDtypeStruct``.
        weight: of targets with a leading axis, one for each of its rows; None for all ones. Rows of weight 0 need not
            be in the domain: the first row that counts stands for them.

    Returns:
        The targets as points of the domain, shape (..., K); unchanged for a loss that is not a Fenchel-Young loss.

    Raises:
        ValueError: if a target is not finite, out of the domain or so large that Ω overflows, or a label not in 0..K−1,
            or the shapes do not match; the message names the first such row, the domain, and the remedy.
        TypeError: if class labels are expected, by shape, and the targets are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import losses
        >>> losses.check_targets(losses.shannon(), jnp.array([1]), jnp.zeros((1, 2))).tolist()
        [[0.0, 1.0]]
    """
    regularizer = loss.regularizer if isinstance(loss, FenchelYoungLoss) else loss
    if not isinstance(regularizer, Regularizer):
        return jnp.asarray(targets)
    given = targets if isinstance(targets, jax.core.Tracer) else np.asarray(targets)
    encoded = regularizer.encode(given, jnp.zeros(scores.shape, jnp.promote_types(scores.dtype, jnp.float32)))
    counts: Any = True
    if weight is not None:
        numbers: Any = jnp if isinstance(weight, jax.core.Tracer) else np
        counts = numbers.asarray(weight) != 0
        encoded = encoded[numbers.where(counts, numbers.arange(len(counts)), numbers.argmax(counts))]
        counts = counts.reshape(-1, *(1,) * (encoded.ndim - 2))
    if isinstance(encoded, jax.core.Tracer):
        return encoded
    values = np.asarray(regularizer.value(encoded))
    bad = ~np.isfinite(values) & counts
    if not bad.any():
        return encoded
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    row = np.asarray(encoded)[where]
    at = f"targets[{', '.join(map(str, where))}]" if where else "targets"
    if np.isnan(row).all() and np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{at}: expected a label in 0..{row.size - 1}, got {given[where]}; renumber the classes")
    if not np.isfinite(row).all():
        raise ValueError(f"{at}: expected finite values, got {_short(row)}; drop the row or give it weight 0")
    expected, reason = regularizer.domain, _reason(regularizer, row)
    if reason == "large":
        expected += f", and a value of the regularizer that {row.dtype} can hold"
    raise ValueError(f"{at}: expected {expected}; got {_short(row)}; {_REMEDY[reason]}")


def _reason(regularizer: Regularizer, row: np.ndarray) -> str:
    if "at least 0" in regularizer.domain and row.min() < 0:
        return "negative"
    if "at most 1" in regularizer.domain:
        return "above"
    return "sum" if regularizer.on_simplex else "large"


def _short(row: np.ndarray) -> str:
    return np.array2string(row, precision=4, threshold=6, separator=", ").replace("\n", "")
