"""Loading a data set by name: registry, subsets, normalisation."""

from collections.abc import Callable

import numpy as np

from cljax._checks import check_positive_int
from cljax._registry import lookup
from cljax.training.datasets.cifar import read_cifar10, read_cifar100
from cljax.training.datasets.dataset import Dataset, RawImages, channel_statistics, normalize
from cljax.training.datasets.digits import read_digits
from cljax.training.datasets.files import PathLike
from cljax.training.datasets.idx import read_fashion_mnist, read_mnist

DATASETS: dict[str, Callable[[PathLike | None], RawImages]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
}
"""Readers by name: data folder -> images as stored. A new data set is a new entry."""


def load_dataset(
    name: str,
    data_dir: PathLike | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set in memory, normalised to mean 0 and variance 1 in each channel.

    Mean and variance are those of all training images there are, not of the subset: so the size of a subset does not
    change how an image looks. Nothing is downloaded.

    Args:
        name: one of ``DATASETS``.
        data_dir: the folder with the files, or with a folder of the data set's name; None takes the environment
            variable CLJAX_DATA. "digits" needs neither.
        num_train: number of training images; None takes all of them, in the order of the files. A number takes the
            first of a random order, so that a smaller subset is part of a larger one of the same seed.
        num_test: likewise for the test images.
        seed: non-negative seed of the random order; the same in all versions of NumPy.

    Returns:
        The data set.

    Raises:
        ValueError: if the name is unknown or a number is not in range; ``DataError`` if a file is missing or corrupt.
        TypeError: if a number is not an integer.

    Example:
        >>> digits = load_dataset("digits", num_train=100)
        >>> digits.train_inputs.shape, digits.test_inputs.shape
        ((100, 8, 8, 1), (360, 8, 8, 1))
    """
    read_fn = lookup("dataset", DATASETS, name)
    for label, value in (("num_train", num_train), ("num_test", num_test)):
        if value is not None:
            check_positive_int(label, value)
    check_positive_int("seed", seed, minimum=0)
    raw = read_fn(data_dir)
    mean, std = channel_statistics(raw.train[0])
    train_images, train_labels = _subset("num_train", name, raw.train, num_train, (seed, 0))
    test_images, test_labels = _subset("num_test", name, raw.test, num_test, (seed, 1))
    return Dataset(
        name=name,
        train_inputs=normalize(train_images, mean, std),
        train_targets=train_labels.astype(np.int32),
        test_inputs=normalize(test_images, mean, std),
        test_targets=test_labels.astype(np.int32),
        num_classes=raw.num_classes,
        notes=raw.notes,
    )


def _subset(
    label: str, name: str, part: tuple[np.ndarray, np.ndarray], number: int | None, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``number`` examples of a random order; all, in the given order, where it is None.

    The order sorts the raw output of the bit generator, which NumPy keeps the same between versions.

    Args:
        label: the argument's name, for the message.
        name: the data set's name, for the message.
        part: images and labels.
        number: how many.
        seed: seed and stream.

    Returns:
        Images and labels.

    Raises:
        ValueError: if there are fewer than ``number``.
    """
    images, labels = part
    if number is None:
        return images, labels
    if number > len(labels):
        raise ValueError(f"{label}: expected at most {len(labels)}, as many as {name} has here, got {number}")
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")[:number]
    return images[order], labels[order]
