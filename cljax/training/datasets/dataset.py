"""What a data set is: examples with targets, split into parts; and the raw images that some are made of."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """A data file is missing, truncated or corrupt; the message names the file and where to get it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in memory, split into training and test parts.

    Attributes:
        name: name in the registry.
        train_inputs: images, float32 of shape (n, H, W, C), normalised per channel; or int32 tokens (n, T).
        train_targets: int32 labels of shape (n,), in 0..num_classes-1; (n, T) for sequences.
        test_inputs: the same of the test part, images normalised with the statistics of the training images.
        test_targets: the same of the test part.
        num_classes: number K of classes, or of words in the vocabulary.
        notes: what differs from the full official data set, one sentence each; empty where nothing does.
        train_weight: float32 (n, T), 0 for padding in sequences; None where all counts alike.
        test_weight: the same of the test part.
        vocabulary: the character of each id, for text.
    """

    name: str
    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    num_classes: int
    notes: tuple[str, ...] = ()
    train_weight: np.ndarray | None = None
    test_weight: np.ndarray | None = None
    vocabulary: tuple[str, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (H, W, C) of one image, (T,) of one sequence."""
        return self.train_inputs.shape[1:]


class Part(NamedTuple):
    """Training or test examples.

    Attributes:
        inputs: (n, ...).
        targets: (n, ...).
        weight: a leading part of the targets' shape, or None.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weight: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a data set, before subsets are chosen.

    Attributes:
        train: training part.
        test: test part.
        num_classes: number K of classes.
        notes: what differs from the full official data set.
        prepare_fn: stored inputs, of the subset chosen, to those that a model takes.
        vocabulary: the character of each id, for text.
    """

    train: Part
    test: Part
    num_classes: int
    notes: tuple[str, ...] = ()
    prepare_fn: Callable[[np.ndarray], np.ndarray] = np.asarray
    vocabulary: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class RawImages:
    """Images as they are stored: uint8, not normalised.

    Attributes:
        train: uint8 images (n, H, W, C) and uint8 labels (n,).
        test: uint8 images (m, H, W, C) and uint8 labels (m,).
        num_classes: number K of classes.
        notes: what differs from the full official data set.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    num_classes: int
    notes: tuple[str, ...] = ()

    def examples(self, context: int | None) -> Examples:
        """The images, to be normalised with the statistics of all training images.

        Args:
            context: None.

        Returns:
            Images and labels of both parts.

        Raises:
            ValueError: if a context is given.
        """
        if context is not None:
            raise ValueError(f"context: expected none for images, got {context}; it is the length of windows of text")
        mean, std = channel_statistics(self.train[0])
        prepare_fn = partial(normalize, mean=mean, std=std)
        return Examples(Part(*self.train), Part(*self.test), self.num_classes, self.notes, prepare_fn)


def channel_statistics(images: np.ndarray, chunk: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, from exact integer sums.

    Args:
        images: uint8 of shape (n, H, W, C).
        chunk: images widened at a time, which bounds the memory.

    Returns:
        Mean and standard deviation, float64 of shape (C,); the deviation is 1 where a channel is constant.
    """
    total = np.zeros(images.shape[-1], np.int64)
    squares = np.zeros(images.shape[-1], np.int64)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk].astype(np.int64)
        total += part.sum((0, 1, 2))
        squares += np.square(part).sum((0, 1, 2))
    count = images.size // images.shape[-1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return mean, np.where(std > 0, std, 1.0)


def normalize(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(images - mean) / std in float32.

    Args:
        images: uint8 of shape (n, H, W, C).
        mean: shape (C,).
        std: shape (C,).

    Returns:
        float32 of the shape of ``images``.
    """
    inputs = images.astype(np.float32)
    inputs -= mean.astype(np.float32)
    inputs /= std.astype(np.float32)
    return inputs
