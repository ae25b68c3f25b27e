"""CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and 3,072 pixel bytes, channel by channel."""

import dataclasses
from pathlib import Path

import numpy as np

from cljax.training.datasets.dataset import DataError, RawImages
from cljax.training.datasets.files import PathLike, Source, check_labels, find_folder, read_bytes

URL = "https://www.cs.toronto.edu/~kriz/cifar.html (binary version)"
PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Files and records of one of the two data sets; the label used is the last label byte."""

    source: Source
    train_files: tuple[str, ...]
    test_file: str
    records: dict[str, int]
    label_bytes: int
    num_classes: int

    @property
    def record(self) -> int:
        """Bytes of one record."""
        return self.label_bytes + PIXELS

    def size(self, name: str) -> str:
        """Expected size of a file in words."""
        return f"{self.records[name] * self.record:,} bytes"


_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10 = _Layout(
    Source("cifar10", ("cifar-10-batches-bin",), URL),
    _BATCHES,
    "test_batch.bin",
    dict.fromkeys((*_BATCHES, "test_batch.bin"), 10_000),
    label_bytes=1,
    num_classes=10,
)
CIFAR100 = _Layout(
    Source("cifar100", ("cifar-100-binary",), URL),
    ("train.bin",),
    "test.bin",
    {"train.bin": 50_000, "test.bin": 10_000},
    label_bytes=2,
    num_classes=100,
)


def read_cifar10(data_dir: PathLike | None = None) -> RawImages:
    """CIFAR-10: 50,000 training and 10,000 test images of shape (32, 32, 3), 10 classes.

    At least one of the five training files must be there; missing ones, and files of fewer whole records than the
    official ones, are accepted and noted.

    Args:
        data_dir: folder with the .bin files, or with a folder ``cifar10`` or ``cifar-10-batches-bin`` of them; None
            takes CLJAX_DATA.

    Returns:
        The images and labels.
    """
    return _read(CIFAR10, data_dir)


def read_cifar100(data_dir: PathLike | None = None) -> RawImages:
    """CIFAR-100: 50,000 training and 10,000 test images of shape (32, 32, 3), 100 classes (the fine labels).

    Files of fewer whole records than the official ones are accepted and noted.

    Args:
        data_dir: folder with the .bin files, or with a folder ``cifar100`` or ``cifar-100-binary`` of them; None takes
            CLJAX_DATA.

    Returns:
        The images and labels.
    """
    return _read(CIFAR100, data_dir)


def _read(layout: _Layout, data_dir: PathLike | None) -> RawImages:
    """Training and test files of one data set."""
    wanted = [(name, layout.size(name)) for name in (*layout.train_files, layout.test_file)]
    folder = find_folder(layout.source, data_dir, wanted)
    present = [name for name in layout.train_files if (folder / name).is_file()] or list(layout.train_files[:1])
    parts = [_read_file(layout, folder / name) for name in present]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test = _read_file(layout, folder / layout.test_file)
    notes = []
    official = sum(layout.records[name] for name in layout.train_files)
    if len(images) < official:
        files = f"{len(present)} of {len(layout.train_files)} files ({', '.join(present)})"
        notes.append(f"training part: {files}: {len(images):,} of {official:,} images")
    if len(test[0]) < layout.records[layout.test_file]:
        count, full = len(test[0]), layout.records[layout.test_file]
        notes.append(f"test part: {layout.test_file} holds {count:,} of {full:,} images")
    return RawImages((images, labels), test, layout.num_classes, tuple(notes))


def _read_file(layout: _Layout, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,) of one file.

    Args:
        layout: the data set.
        path: the file.

    Returns:
        Two uint8 arrays.

    Raises:
        DataError: if the file is missing, empty, not of whole records, too long, or has a label out of range.
    """
    expected = layout.size(path.name)
    contents = read_bytes(layout.source, path, expected)
    count, rest = divmod(len(contents), layout.record)
    if rest:
        raise DataError(
            f"{path}: expected {expected}, got {len(contents):,}, which is no whole number of records of "
            f"{layout.record:,} bytes: truncated or another format; {layout.source.remedy}"
        )
    if count > layout.records[path.name]:
        raise DataError(f"{path}: expected {expected}, got {len(contents):,}: too long; {layout.source.remedy}")
    records = np.frombuffer(contents, np.uint8).reshape(count, layout.record)
    labels = records[:, layout.label_bytes - 1].copy()
    check_labels(layout.source, path, labels, layout.num_classes)
    images = records[:, layout.label_bytes :].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
