"""Loading a data set by name: registry, subsets, normalisation."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from cljax._checks import check_positive_int
from cljax._registry import lookup
from cljax.training.datasets.cifar import read_cifar10, read_cifar100
from cljax.training.datasets.dataset import Dataset, Examples, Part
from cljax.training.datasets.digits import read_digits
from cljax.training.datasets.files import PathLike
from cljax.training.datasets.idx import read_fashion_mnist, read_mnist
from cljax.training.datasets.text import read_text, read_tinyshakespeare


class Raw(Protocol):
    """A data set as it is stored."""

    def examples(self, context: int | None) -> Examples:
        """Its examples; ``context`` is the length of windows of text, None for the usual one and for images."""


DATASETS: dict[str, Callable[[PathLike | None], Raw]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "tinyshakespeare": read_tinyshakespeare,
    "text": read_text,
}
"""Readers by name: data folder -> data as stored. A new data set is a new entry."""


def load_dataset(
    name: str,
    data_dir: PathLike | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    context: int | None = None,
) -> Dataset:
    """A data set in memory: images normalised to mean 0 and variance 1 in each channel, or windows of text.

    Mean and variance are those of all training images there are, not of the subset: so the size of a subset does not
    change how an image looks. Nothing is downloaded.

    Args:
        name: one of ``DATASETS``.
        data_dir: the folder with the files, or with a folder of the data set's name; None takes the environment
            variable CLJAX_DATA. "digits" needs neither; for "text" it is the file itself.
        num_train: number of training examples; None takes all of them, in the order of the files. A number takes the
            first of a random order, so that a smaller subset is part of a larger one of the same seed.
        num_test: likewise for the test examples.
        seed: non-negative seed of the random order; the same in all versions of NumPy.
        context: tokens of an example of text; None for 64, and for images.

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
    found = read_fn(data_dir).examples(context)
    train = _subset("num_train", name, found.train, num_train, (seed, 0))
    test = _subset("num_test", name, found.test, num_test, (seed, 1))
    return Dataset(
        name=name,
        train_inputs=found.prepare_fn(train.inputs),
        train_targets=train.targets.astype(np.int32),
        test_inputs=found.prepare_fn(test.inputs),
        test_targets=test.targets.astype(np.int32),
        num_classes=found.num_classes,
        notes=found.notes,
        train_weight=train.weight,
        test_weight=test.weight,
        vocabulary=found.vocabulary,
    )


def _subset(label: str, name: str, part: Part, number: int | None, seed: tuple[int, int]) -> Part:
    """The first ``number`` examples of a random order; all, in the given order, where it is None.

    The order sorts the raw output of the bit generator, which NumPy keeps the same between versions.

    Args:
        label: the argument's name, for the message.
        name: the data set's name, for the message.
        part: all examples.
        number: how many.
        seed: seed and stream.

    Returns:
        The examples.

    Raises:
        ValueError: if there are fewer than ``number``.
    """
    if number is None:
        return part
    num = len(part.targets)
    if number > num:
        raise ValueError(f"{label}: expected at most {num}, as many as {name} has here, got {number}")
    order = np.argsort(np.random.PCG64(seed).random_raw(num), kind="stable")[:number]
    return Part(part.inputs[order], part.targets[order], None if part.weight is None else part.weight[order])
