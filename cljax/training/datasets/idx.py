"""MNIST and Fashion-MNIST: gzipped IDX files, as published."""

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np

from cljax.training.datasets.dataset import DataError, RawImages
from cljax.training.datasets.files import PathLike, Source, check_labels, find_folder, read_bytes

MNIST = Source("mnist", ("MNIST/raw",), "https://storage.googleapis.com/cvdf-datasets/mnist/")
FASHION_MNIST = Source(
    "fashion_mnist", ("FashionMNIST/raw",), "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
)
SIDE, NUM_CLASSES = 28, 10
# The official files: name -> images or labels in it, and the md5 of the .gz for each data set.
COUNTS = {
    "train-images-idx3-ubyte.gz": 60_000,
    "train-labels-idx1-ubyte.gz": 60_000,
    "t10k-images-idx3-ubyte.gz": 10_000,
    "t10k-labels-idx1-ubyte.gz": 10_000,
}
MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}


def read_mnist(data_dir: PathLike | None = None) -> RawImages:
    """MNIST: 60,000 training and 10,000 test images of shape (28, 28, 1), 10 classes.

    Args:
        data_dir: folder with the four .gz files, or with a folder ``mnist`` of them; None takes CLJAX_DATA.

    Returns:
        The images and labels.
    """
    return read_idx(MNIST, data_dir)


def read_fashion_mnist(data_dir: PathLike | None = None) -> RawImages:
    """Fashion-MNIST: 60,000 training and 10,000 test images of shape (28, 28, 1), 10 classes.

    Args:
        data_dir: folder with the four .gz files, or with a folder ``fashion_mnist`` of them; None takes CLJAX_DATA.

    Returns:
        The images and labels.
    """
    return read_idx(FASHION_MNIST, data_dir)


def read_idx(source: Source, data_dir: PathLike | None) -> RawImages:
    """The four files of one data set.

    Args:
        source: the data set.
        data_dir: as in ``read_mnist``.

    Returns:
        The images and labels; files that are not the official ones are noted.

    Raises:
        DataError: if a file is missing, truncated, corrupt, of other dimensions, or that of another data set.
    """
    folder = find_folder(source, data_dir, [(name, f"{_size(name):,} bytes uncompressed") for name in COUNTS])
    notes: list[str] = []
    parts = []
    for part in ("train", "t10k"):
        image_path = folder / f"{part}-images-idx3-ubyte.gz"
        label_path = folder / f"{part}-labels-idx1-ubyte.gz"
        images = _read_array(source, image_path, notes)
        labels = _read_array(source, label_path, notes)
        if len(images) != len(labels):
            raise DataError(
                f"{label_path}: expected {len(images):,} labels, as many as there are images in {image_path.name}, "
                f"got {len(labels):,}; {source.remedy}"
            )
        check_labels(source, label_path, labels, NUM_CLASSES)
        parts.append((images[..., None], labels))
    return RawImages(parts[0], parts[1], NUM_CLASSES, tuple(notes))


def _size(name: str) -> int:
    """Bytes of the official file ``name`` uncompressed."""
    return 16 + COUNTS[name] * SIDE * SIDE if "images" in name else 8 + COUNTS[name]


def _read_array(source: Source, path: Path, notes: list[str]) -> np.ndarray:
    """One IDX file, as uint8 of shape (n, 28, 28) or (n,); appends to ``notes`` if it is not the official one.

    Args:
        source: the data set.
        path: the .gz file.
        notes: changed in place.

    Returns:
        The array.

    Raises:
        DataError: as ``read_idx``.
    """
    name = path.name
    md5 = MD5[source.name][name]
    expected = f"{_size(name):,} bytes uncompressed (official .gz: md5 {md5})"
    packed = read_bytes(source, path, expected)
    got_md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    for other, sums in MD5.items():
        if other != source.name and sums[name] == got_md5:
            raise DataError(f"{path}: expected a file of {source.name}, got that of {other}; {source.remedy}")
    try:
        contents = gzip.decompress(packed)
    except EOFError:
        raise DataError(f"{path}: expected {expected}, got a truncated .gz file; {source.remedy}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected {expected}, got a corrupt .gz file ({error}); {source.remedy}") from error
    array = _parse(source, path, contents, expected)
    if got_md5 != md5:
        notes.append(f"{name}: {len(array):,} of {COUNTS[name]:,}; not the official file (its md5 is {got_md5})")
    return array


def _parse(source: Source, path: Path, contents: bytes, expected: str) -> np.ndarray:
    """The array in the bytes of an IDX file: a big-endian header of magic number and dimensions, then uint8 values.

    Args:
        source: the data set.
        path: the file, for messages.
        contents: its bytes, uncompressed.
        expected: its expected size in words.

    Returns:
        uint8 of shape (n, 28, 28) or (n,), n at least 1.

    Raises:
        DataError: if magic number, dimensions or length are not the expected ones.
    """
    num_axes = 3 if "images" in path.name else 1
    magic = 0x0800 + num_axes
    start = 4 + 4 * num_axes
    if len(contents) < start:
        raise DataError(f"{path}: expected {expected}, got {len(contents):,} bytes: truncated; {source.remedy}")
    got_magic, count, *shape = struct.unpack(f">{1 + num_axes}I", contents[:start])
    if got_magic != magic:
        raise DataError(f"{path}: expected the IDX magic number {magic}, got {got_magic}; {source.remedy}")
    if count == 0 or shape != [SIDE] * (num_axes - 1):
        wanted = "n x 28 x 28" if num_axes == 3 else "n"
        got = " x ".join(map(str, [count, *shape]))
        raise DataError(f"{path}: expected dimensions {wanted} with n at least 1, got {got}; {source.remedy}")
    length = start + count * (SIDE * SIDE if num_axes == 3 else 1)
    if len(contents) != length:
        what = "truncated" if len(contents) < length else "too long"
        raise DataError(
            f"{path}: expected {length:,} bytes uncompressed, as its header says, got {len(contents):,}: {what}; "
            f"{source.remedy}"
        )
    return np.frombuffer(contents, np.uint8, offset=start).reshape(count, *shape)
