"""What a data set is: normalised images with labels; and the raw images it is made of."""

import dataclasses

import numpy as np


class DataError(ValueError):
    """A data file is missing, truncated or corrupt; the message names the file and where to get it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory, split into training and test parts.

    Attributes:
        name: name in the registry.
        train_inputs: float32 of shape (n, H, W, C), normalised per channel.
        train_targets: int32 labels of shape (n,), in 0..num_classes-1.
        test_inputs: float32 of shape (m, H, W, C), normalised with the statistics of the training images.
        test_targets: int32 labels of shape (m,).
        num_classes: number K of classes.
        notes: what differs from the full official data set, one sentence each; empty where nothing does.
    """

    name: str
    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    num_classes: int
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one input."""
        height, width, channels = self.train_inputs.shape[1:]
        return height, width, channels


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
