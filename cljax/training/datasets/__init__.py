"""Data sets in memory: digits (in the package); MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 and text (from files)."""

from cljax.training.datasets.dataset import DataError, Dataset
from cljax.training.datasets.load import DATASETS, load_dataset

__all__ = ["DATASETS", "DataError", "Dataset", "load_dataset"]
