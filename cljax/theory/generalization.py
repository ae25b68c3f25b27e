"""Bounds of the generalization gap by what features say about labels, on finite or quantized features."""

import dataclasses
import math
from typing import Any

import numpy as np

from cljax.losses.fenchel_young import FenchelYoungLoss
from cljax.losses.regularizer import Regularizer
from cljax.theory.entropy import conditional_entropy
from cljax.theory.groups import check_refines, group_ids
from cljax.theory.laws import feature_entropy, gini, joint_law, renyi_half_size, shannon, total_variation


@dataclasses.dataclass(frozen=True)
class GeneralizationBounds:
    """The gap between test and training risk, its bounds, and each factor of them; losses in their own units.

    Attributes:
        gap: test risk − training risk.
        train_risk: mean training loss.
        test_risk: mean test loss.
        distribution: osc · TV(test, train) of (T, Y): the gap's absolute value is at most this (5a).
        collapse: osc · (TV of Y + mean over labels of b_y), with Gini impurities (5b); at least ``distribution``.
        collapse_shannon: the same with Shannon entropies in place of Gini impurities.
        range_low: H_Ω(Y|T) of the test law − training risk: the gap is at least this (5c); NaN without a
            regularizer, or where the losses are no function of (T, Y).
        range_high: greatest loss − training risk: the gap is at most this (5c).
        probabilistic: osc · (√((exp H_{1/2}(T, Y) − 1) / n) / 2 + √(log(1/δ) / (2n))): of a sample of n from the test
            law, the gap's absolute value is above this with probability at most δ, for all predictors through T (5d).
        second_moment: |ℓ|₂ √(S2(T, Y) / (n δ)), likewise, for one predictor (5e).
        quantization: what losses that differ within a cell of (T, Y) add to all bounds of the gap's absolute value but
            the range; 0 where the loss is a function of (T, Y).
        oscillation: osc, greatest − least loss over both samples.
        loss_max: greatest loss over both samples.
        tv_features: TV of (T, Y).
        tv_inputs: TV of (X, Y), NaN without inputs.
        information_loss: tv_inputs − tv_features, what the map from X to T takes off the bound; at least 0.
        tv_labels: TV of Y.
        feature_collapse: mean over labels of b_y: 0 where features are a function of the label, the same in both laws.
        shared_modes: share of labels, by test law, whose most frequent feature is the same in both laws.
        entropy_train: H(T|Y) of the training law, in nats.
        entropy_test: H(T|Y) of the test law, in nats.
        renyi_half_size: exp H_{1/2}(T, Y) of the test law, at most the number of cells.
        gini: S2(T, Y) = 1 − Σ q² of the test law.
        num_train: training examples, n.
        num_cells: cells (t, y) seen.
        delta: δ.
        assumptions: which of the assumptions hold, as far as the data or the caller can tell.
    """

    gap: float
    train_risk: float
    test_risk: float
    distribution: float
    collapse: float
    collapse_shannon: float
    range_low: float
    range_high: float
    probabilistic: float
    second_moment: float
    quantization: float
    oscillation: float
    loss_max: float
    tv_features: float
    tv_inputs: float
    information_loss: float
    tv_labels: float
    feature_collapse: float
    shared_modes: float
    entropy_train: float
    entropy_test: float
    renyi_half_size: float
    gini: float
    num_train: int
    num_cells: int
    delta: float
    assumptions: dict[str, bool]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Features, labels and losses of one sample.

    Attributes:
        features: integer ids (n,) or codes (n, d), see ``theory.quantize``.
        labels: integers (n,).
        losses: floats (n,), of the model at these examples.
        inputs: None, or integer ids (n,) or codes (n, ...) of the inputs.
    """

    features: Any
    labels: Any
    losses: Any
    inputs: Any = None


def generalization_bounds(
    train: Sample,
    test: Sample,
    *,
    loss: FenchelYoungLoss | Regularizer | None = None,
    delta: float = 0.05,
    features_fixed: bool = False,
) -> GeneralizationBounds:
    """Deterministic and probabilistic bounds of the gap between test and training risk.

    The test sample stands for the law q. Deterministic bounds hold for the two samples as they are, whatever features
    were learnt from them. The probabilistic ones need features that were fixed before the training sample was drawn,
    and take their entropies from the test sample in place of the law: ``assumptions`` says so.

    Args:
        train: the training sample.
        test: the test sample, features and losses from the same model.
        loss: a Fenchel-Young loss or its regularizer, for the lower end of the range; labels are its classes.
        delta: probability with which a probabilistic bound may fail, in (0, 1).
        features_fixed: whether the features were fixed before sampling, as inputs themselves always are.

    Returns:
        Bounds, their factors and assumptions.

    Raises:
        ValueError: if lengths differ, labels are not of shape (n,), a sample is empty, a loss is not finite, the
            features are no function of the inputs, or delta is not in (0, 1).
        TypeError: if a sample is no ``Sample``, or features, inputs or labels are not integers.

    Example:
        >>> import numpy as np
        >>> from cljax import theory
        >>> train = theory.Sample(np.array([0, 1, 1]), np.array([0, 1, 1]), np.array([0.1, 0.2, 0.2]))
        >>> test = theory.Sample(np.array([0, 1]), np.array([0, 1]), np.array([0.1, 0.2]))
        >>> found = theory.generalization_bounds(train, test)
        >>> round(found.gap, 4), round(found.distribution, 4), round(found.feature_collapse, 4)
        (-0.0167, 0.0167, 0.0)

    References:
        Our own bounds, from the factors that the abstract of arXiv:2602.16177 names; its theorems are not at hand.
        Hellman, Raviv, Probability of error, equivocation, and the Chernoff bound, IEEE Trans. IT 16 (1970), for the
        Shannon form; McDiarmid's inequality for the probabilistic one.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta: expected a probability in (0, 1), got {delta}")
    sizes = [_check_sample("train", train), _check_sample("test", test)]
    labels, features = _common_ids("labels", train, test), _common_ids("features", train, test)
    cells = group_ids(features, labels)
    split = sizes[0]
    p, q = joint_law(cells, split)
    losses = np.concatenate([np.asarray(s.losses, float) for s in (train, test)])
    train_risk, test_risk = losses[:split].mean(), losses[split:].mean()
    osc, loss_max = float(np.ptp(losses)), float(losses.max())
    within, exact = _within_cells(cells, losses, split, p, q)
    tv = total_variation(p, q)
    tv_inputs = math.nan
    if train.inputs is not None and test.inputs is not None:
        inputs = _common_ids("inputs", train, test)
        check_refines(inputs, features, ("inputs", "features"))
        tv_inputs = total_variation(*joint_law(group_ids(inputs, labels), split))
    tv_labels = total_variation(*joint_law(labels, split))
    collapse, collapse_shannon, shared = feature_entropy(features, labels, split)
    # H(T|Y) = H(T, Y) − H(Y)
    entropies = [shannon(a) - shannon(b) for a, b in zip((p, q), joint_law(labels, split), strict=True)]
    size = renyi_half_size(q)
    spread = math.sqrt(max(size - 1, 0) / split) / 2 + math.sqrt(math.log(1 / delta) / (2 * split))
    per_cell = np.zeros(len(p))
    np.maximum.at(per_cell, cells, np.abs(losses))
    return GeneralizationBounds(
        gap=float(test_risk - train_risk),
        train_risk=float(train_risk),
        test_risk=float(test_risk),
        distribution=osc * tv + within,
        collapse=osc * min(tv_labels + collapse, 1) + within,
        collapse_shannon=osc * min(tv_labels + collapse_shannon, 1) + within,
        range_low=(_floor(loss, features[split:], test) if exact else math.nan) - float(train_risk),
        range_high=loss_max - float(train_risk),
        probabilistic=osc * spread + within,
        second_moment=float(np.sqrt(np.sum(per_cell**2) * gini(q) / (split * delta))) + within,
        quantization=within,
        oscillation=osc,
        loss_max=loss_max,
        tv_features=tv,
        tv_inputs=tv_inputs,
        information_loss=tv_inputs - tv,
        tv_labels=tv_labels,
        feature_collapse=collapse,
        shared_modes=shared,
        entropy_train=entropies[0],
        entropy_test=entropies[1],
        renyi_half_size=size,
        gini=gini(q),
        num_train=split,
        num_cells=len(p),
        delta=delta,
        assumptions={
            "loss is a function of features and label": exact,
            "features fixed before sampling": features_fixed,
            "all labels share their most frequent feature": shared == 1,
            "the law is known, not its sample": False,
        },
    )


def _check_sample(name: str, sample: Sample) -> int:
    if not isinstance(sample, Sample):
        raise TypeError(f"{name}: expected a theory.Sample, got {type(sample).__name__}")
    if np.ndim(sample.labels) != 1:
        raise ValueError(f"{name}.labels: expected shape (n,), got {np.shape(sample.labels)}; one class an example")
    num = len(np.asarray(sample.labels))
    if not num:
        raise ValueError(f"{name}: expected at least one example, got none")
    for field in ("features", "labels", "losses", "inputs"):
        value = getattr(sample, field)
        if value is None:
            continue
        array = np.asarray(value)
        if array.shape[:1] != (num,):
            raise ValueError(f"{name}.{field}: expected length {num}, as labels, got shape {array.shape}")
        if field == "losses":
            if array.ndim != 1 or not np.isfinite(array).all():
                raise ValueError(f"{name}.losses: expected finite losses of shape ({num},), got {array.shape} or NaN")
        elif not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{name}.{field}: expected integers, got {array.dtype}; quantize with theory.quantize")
    return num


def _common_ids(field: str, train: Sample, test: Sample) -> np.ndarray:
    """Ids of both samples, the training sample first."""
    rows = [np.asarray(getattr(sample, field)) for sample in (train, test)]
    if rows[0].shape[1:] != rows[1].shape[1:]:
        raise ValueError(f"test.{field}: expected shape (n, {rows[0].shape[1:]}), as train, got {rows[1].shape}")
    # sign and 64 bits are exact for integers of any type; a common type may be a float
    return group_ids(*(np.concatenate(part) for part in ([r < 0 for r in rows], [r.astype(np.uint64) for r in rows])))


def _within_cells(
    cells: np.ndarray, losses: np.ndarray, split: int, p: np.ndarray, q: np.ndarray
) -> tuple[float, bool]:
    """Σ min(p, q) |difference of the cell's mean losses|, and whether losses are constant in cells."""
    sums = [np.bincount(c, x, len(p)) for c, x in ((cells[:split], losses[:split]), (cells[split:], losses[split:]))]
    counts = [split * p, (len(cells) - split) * q]
    means = [s / np.where(n > 0, n, 1) for s, n in zip(sums, counts, strict=True)]
    within = float(np.sum(np.minimum(p, q) * np.abs(means[1] - means[0])))
    low, high = np.full(len(p), np.inf), np.full(len(p), -np.inf)
    np.minimum.at(low, cells, losses)
    np.maximum.at(high, cells, losses)
    exact = bool((high - low <= 1e-6 * np.maximum(np.abs(high), np.abs(low))).all())
    return within, exact


def _floor(loss: Any, features: np.ndarray, test: Sample) -> float:
    if loss is None:
        return math.nan
    given = np.asarray(test.labels)
    return float(conditional_entropy(loss, given, features, num_classes=max(2, int(given.max()) + 1)))
