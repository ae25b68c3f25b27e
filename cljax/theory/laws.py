"""Empirical laws of two samples on the same finite set, and what tells them apart."""

import math

import numpy as np


def joint_law(ids: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of ids in the first ``split`` examples and in the rest.

    Args:
        ids: integers 0..G−1, shape (n,).
        split: how many belong to the first sample.

    Returns:
        Two laws of shape (G,).
    """
    num = int(ids.max()) + 1
    return np.bincount(ids[:split], minlength=num) / split, np.bincount(ids[split:], minlength=num) / (len(ids) - split)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the sum of absolute differences of two laws, in [0, 1]."""
    return float(np.abs(p - q).sum() / 2)


def renyi_half_size(law: np.ndarray) -> float:
    """(Σ √q)², the exponential of the Rényi entropy of order 1/2: at most the size of the support."""
    return float(np.sqrt(law).sum() ** 2)


def gini(law: np.ndarray) -> float:
    """1 − Σ q²: the probability that two draws differ."""
    return float(1 - np.sum(law**2))


def feature_entropy(features: np.ndarray, labels: np.ndarray, split: int) -> tuple[float, float, float]:
    """How far features are from a function of the label, the same in both samples.

    For each label y of the second sample, with the laws P and Q of features given y: TV(P, Q) ≤ 1 − min(P(t), Q(t)) for
    a most frequent feature t of both, and 1 − max P ≤ S2(P), also ≤ H(P) / (2 log 2). Without a common one, 1.

    Args:
        features: ids 0..G−1 of both samples.
        labels: ids of both samples.
        split: how many belong to the first sample.

    Returns:
        Means over the labels of the second sample of the bounds by Gini impurity and by Shannon entropy, and the share
        of labels with a common most frequent feature.
    """
    num = int(features.max()) + 1
    impurity, entropy, shared = 0.0, 0.0, 0.0
    for label in np.unique(labels[split:]):
        share = float(np.mean(labels[split:] == label))
        parts = [part[which] for part, which in _halves(features, labels == label, split)]
        counts = [np.bincount(part, minlength=num) for part in parts]
        if not len(parts[0]) or not _has_common_mode(*counts):
            impurity, entropy = impurity + share, entropy + share
            continue
        laws = [c / c.sum() for c in counts]
        impurity += share * min(1, max(gini(law) for law in laws))
        entropy += share * min(1, max(shannon(law) for law in laws) / (2 * math.log(2)))
        shared += share
    return impurity, entropy, 1.0 if math.isclose(shared, 1) else shared


def _halves(features: np.ndarray, which: np.ndarray, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(features[:split], which[:split]), (features[split:], which[split:])]


def _has_common_mode(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a == a.max()) & (b == b.max())).any())


def shannon(law: np.ndarray) -> float:
    """−Σ q log q, in nats."""
    seen = law[law > 0]
    return float(-np.sum(seen * np.log(seen)))
