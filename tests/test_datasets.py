"""Data sets: the digits in the package, MNIST and Fashion-MNIST from files made here and, where present, real ones."""

import gzip
import hashlib
import importlib.resources
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from cljax.training.datasets import DATASETS, DataError, load_dataset
from cljax.training.datasets.dataset import channel_statistics

IDX_FILES = {"train-images-idx3": 12, "train-labels-idx1": 12, "t10k-images-idx3": 5, "t10k-labels-idx1": 5}


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("CLJAX_DATA", raising=False)


FIRST_EIGHT = [4, 8, 3, 4, 4, 1, 6, 5]
REAL = os.environ.get("CLJAX_DATA")


def real_folder(name):
    if not REAL or not (Path(REAL) / name).is_dir():
        pytest.skip(f"needs the real {name} files: CLJAX_DATA names no folder with a folder {name}")
    return REAL


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def write_idx(folder, name="mnist", count=None):
    """Four IDX files of random images; labels count up."""
    folder = folder / name
    folder.mkdir()
    rng = np.random.default_rng(0)
    for stem, n in (count or IDX_FILES).items():
        if "images" in stem:
            contents = struct.pack(">4I", 2051, n, 28, 28) + rng.integers(0, 256, n * 784, np.uint8).tobytes()
        else:
            contents = struct.pack(">2I", 2049, n) + bytes(i % 10 for i in range(n))
        (folder / f"{stem}-ubyte.gz").write_bytes(gzip.compress(contents, mtime=0))
    return folder


def rewrite(path, change):
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def test_digits_are_those_of_the_source():
    file = importlib.resources.files("cljax.training.datasets").joinpath("digits.npz")
    with np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == np.uint8
    assert images.sum(dtype=np.int64) == 561718
    assert images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    licence = file.with_name("DIGITS-LICENSE.txt").read_text()
    assert hashlib.sha256(images.tobytes()).hexdigest() in licence
    assert hashlib.sha256(labels.tobytes()).hexdigest() in licence


def test_digits_split_is_fixed_stratified_and_normalized():
    digits = load_dataset("digits")
    assert digits.input_shape == (8, 8, 1)
    assert digits.train_inputs.shape == (1437, 8, 8, 1)
    assert digits.test_inputs.shape == (360, 8, 8, 1)
    assert digits.train_inputs.dtype == digits.test_inputs.dtype == np.float32
    assert digits.train_targets.dtype == digits.test_targets.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.notes == ()
    train, test = np.bincount(digits.train_targets), np.bincount(digits.test_targets)
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.all(np.abs(test - (train + test) / 5) < 1)
    eps = np.finfo(np.float32).eps
    assert abs(digits.train_inputs.mean(dtype=np.float64)) < 4 * eps
    assert abs(digits.train_inputs.std(dtype=np.float64) - 1) < 4 * eps
    for seed in (1, 2):
        again = load_dataset("digits", seed=seed)
        np.testing.assert_array_equal(again.train_inputs, digits.train_inputs)


def test_subsets_are_deterministic_nested_and_keep_the_scaling():
    full = load_dataset("digits")
    some = load_dataset("digits", num_train=50, num_test=20, seed=3)
    same = load_dataset("digits", num_train=50, num_test=20, seed=3)
    more = load_dataset("digits", num_train=80, seed=3)
    other = load_dataset("digits", num_train=50, seed=4)
    np.testing.assert_array_equal(some.train_inputs, same.train_inputs)
    np.testing.assert_array_equal(some.test_targets, same.test_targets)
    np.testing.assert_array_equal(some.train_inputs, more.train_inputs[:50])
    assert not np.array_equal(some.train_targets, other.train_targets)
    rows = {image.tobytes() for image in full.train_inputs}
    assert all(image.tobytes() in rows for image in some.train_inputs)
    assert len({image.tobytes() for image in some.train_inputs}) == 50
    everything = load_dataset("digits", num_train=1437)
    assert {image.tobytes() for image in everything.train_inputs} == rows


def test_subset_order_is_the_same_in_all_numpy_versions():
    digits = load_dataset("digits", num_train=8)
    assert digits.train_targets.tolist() == FIRST_EIGHT


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"num_train": 0}, ValueError, "num_train: expected an integer of at least 1, got 0"),
        ({"num_test": 2.5}, TypeError, "num_test: expected a static integer"),
        ({"num_train": 1438}, ValueError, "num_train: expected at most 1437"),
        ({"num_test": 361}, ValueError, "num_test: expected at most 360"),
        ({"seed": -1}, ValueError, "seed: expected an integer of at least 0"),
    ],
)
def test_bad_numbers(options, kind, match):
    with pytest.raises(kind, match=match):
        load_dataset("digits", **options)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="dataset: expected one of digits, mnist") as error:
        load_dataset("mnits")
    assert one_line(error).endswith("got 'mnits'; did you mean 'mnist'?")
    with pytest.raises(ValueError, match=r"got 'zzz'$"):
        load_dataset("zzz")
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        load_dataset("CIFAR-10")


def test_statistics_are_exact_per_channel():
    images = np.random.default_rng(1).integers(0, 256, (9, 4, 5, 3), np.uint8)
    images[..., 2] = 7
    mean, std = channel_statistics(images, chunk=4)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(std[:2], images[..., :2].std((0, 1, 2), dtype=np.float64), rtol=1e-13)
    assert std[2] == 1


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in {"digits", "text"}])
def test_missing_files_say_what_and_where(name, tmp_path, monkeypatch):
    for folder in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as error:
            load_dataset(name, data_dir=folder)
        message = one_line(error)
        for part in (name, "bytes", "http", "--data-dir", "CLJAX_DATA"):
            assert part in message
    monkeypatch.setenv("CLJAX_DATA", str(tmp_path))
    with pytest.raises(DataError, match="found none of them"):
        load_dataset(name)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read(name, tmp_path, monkeypatch):
    folder = write_idx(tmp_path, name)
    data = load_dataset(name, data_dir=tmp_path)
    assert data.train_inputs.shape == (12, 28, 28, 1)
    assert data.test_inputs.shape == (5, 28, 28, 1)
    assert data.test_targets.tolist() == [0, 1, 2, 3, 4]
    train, test = (
        np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
        for part in ("train", "t10k")
    )
    expected = (test.reshape(5, 28, 28, 1) - train.mean()) / train.std()
    np.testing.assert_allclose(data.test_inputs, expected, atol=1e-6)
    assert len(data.notes) == 4
    assert "12 of 60,000; not the official file" in data.notes[0]
    monkeypatch.setenv("CLJAX_DATA", str(folder))
    np.testing.assert_array_equal(load_dataset(name).train_inputs, data.train_inputs)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (IMAGES, lambda b: struct.pack(">I", 2049) + b[4:], "expected the IDX magic number 2051, got 2049"),
        (LABELS, lambda b: struct.pack(">I", 2051) + b[4:], "expected the IDX magic number 2049, got 2051"),
        (IMAGES, lambda b: b[:8] + struct.pack(">2I", 28, 27) + b[16:], "n x 28 x 28 with n at least 1, got 12 x 28"),
        (LABELS, lambda b: b[:4] + struct.pack(">I", 0), "expected dimensions n with n at least 1, got 0"),
        (IMAGES, lambda b: b[:-1], r"expected 9,424 bytes .* got 9,423: truncated"),
        (IMAGES, lambda b: b + b"0", r"expected 9,424 bytes .* got 9,425: too long"),
        (IMAGES, lambda b: b[:7], "got 7 bytes: truncated"),
        (LABELS, lambda b: b[:-2] + bytes([10, 3]), "expected labels 0 to 9, got 10 at position 3"),
        (LABELS, lambda b: b[:4] + struct.pack(">I", 4) + b[8:-1], "expected 5 labels, .* got 4"),
    ],
)
def test_bad_idx_contents(name, change, match, tmp_path):
    rewrite(write_idx(tmp_path) / name, change)
    with pytest.raises(DataError, match=match) as error:
        load_dataset("mnist", data_dir=tmp_path)
    message = one_line(error)
    assert name in message
    assert "https://" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: b[: len(b) // 2], "truncated .gz file"),
        (lambda b: b"plain" + b[5:], "corrupt .gz file"),
        (lambda b: b[:200] + bytes(64) + b[264:], "corrupt .gz file"),
        (lambda b: b[:-8] + bytes(8), "corrupt .gz file"),
        (lambda b: b"", "empty file"),
    ],
)
def test_bad_gzip(change, match, tmp_path):
    path = write_idx(tmp_path, "fashion_mnist") / IMAGES
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=match) as error:
        load_dataset("fashion_mnist", data_dir=tmp_path)
    message = one_line(error)
    for part in (IMAGES, "47,040,016", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "fashion-mnist.s3"):
        assert part in message


def test_one_missing_idx_file_is_named(tmp_path):
    (write_idx(tmp_path) / LABELS).unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: expected 10,008 bytes .* no such file"):
        load_dataset("mnist", data_dir=tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = write_idx(tmp_path) / LABELS
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot read it"):
        load_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_idx_files(name):
    data = load_dataset(name, data_dir=real_folder(name))
    assert data.train_inputs.shape == (60_000, 28, 28, 1)
    assert data.test_inputs.shape == (10_000, 28, 28, 1)
    assert data.notes == ()
    counts = np.bincount(data.test_targets).tolist()
    mnist = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert counts == (mnist if name == "mnist" else [1000] * 10)
    assert abs(data.train_inputs.mean(dtype=np.float64)) < 1e-5
    assert abs(data.train_inputs.std(dtype=np.float64) - 1) < 1e-5


def test_real_files_of_another_data_set_are_refused(tmp_path):
    folder = Path(real_folder("mnist")) / "mnist"
    with pytest.raises(DataError, match="expected a file of fashion_mnist, got that of mnist"):
        load_dataset("fashion_mnist", data_dir=folder)
