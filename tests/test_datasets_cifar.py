"""CIFAR-10 and CIFAR-100 from files made here and, where present, from the real ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from cljax.training.datasets import DataError, load_dataset

REAL = os.environ.get("CLJAX_DATA")


def cifar_records(count, label_bytes=1, num_classes=10):
    """Records whose pixels are 0..255 repeated, so that their place after reading is known."""
    labels = np.stack([np.arange(count) % 20] * (label_bytes - 1) + [np.arange(count) % num_classes], 1)
    pixels = np.broadcast_to(np.arange(3072) % 251, (count, 3072))
    return np.concatenate([labels, pixels], 1).astype(np.uint8).tobytes()


def write_cifar10(folder, train=(1, 2, 3, 4, 5), count=4):
    folder.mkdir(parents=True)
    for i in train:
        (folder / f"data_batch_{i}.bin").write_bytes(cifar_records(count))
    (folder / "test_batch.bin").write_bytes(cifar_records(3))
    return folder


@pytest.mark.parametrize("where", ["cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "."])
def test_cifar10_is_found_and_read(where, tmp_path):
    write_cifar10(tmp_path / "data" / where)
    data = load_dataset("cifar10", data_dir=tmp_path / "data")
    assert data.train_inputs.shape == (20, 32, 32, 3)
    assert data.test_inputs.shape == (3, 32, 32, 3)
    assert data.train_targets.tolist() == [0, 1, 2, 3] * 5
    assert data.num_classes == 10
    pixels = (np.arange(3072) % 251).reshape(3, 32, 32)
    flat = pixels.reshape(3, -1)
    expected = (pixels - flat.mean(1)[:, None, None]) / flat.std(1)[:, None, None]
    np.testing.assert_allclose(data.test_inputs[1], expected.transpose(1, 2, 0), atol=1e-6)
    assert any("training part: 5 of 5 files" in note for note in data.notes)
    assert any("3 of 10,000" in note for note in data.notes)


def test_cifar10_notes_missing_training_files(tmp_path):
    write_cifar10(tmp_path / "cifar10", train=(1, 4))
    notes = load_dataset("cifar10", data_dir=tmp_path).notes
    assert notes[0] == "training part: 2 of 5 files (data_batch_1.bin, data_batch_4.bin): 8 of 50,000 images"


def test_cifar100_uses_the_fine_label(tmp_path):
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary" / "train.bin").write_bytes(cifar_records(100, 2, 100))
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(cifar_records(100, 2, 100)[-2 * 3074 :])
    data = load_dataset("cifar100", data_dir=tmp_path)
    assert data.train_targets.tolist() == list(range(100))
    assert data.test_targets.tolist() == [98, 99]
    assert data.num_classes == 100
    assert data.train_inputs.shape == (100, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "contents", "match"),
    [
        ("data_batch_2.bin", cifar_records(2)[:-1], "expected 30,730,000 bytes, got 6,145, which is no whole number"),
        ("test_batch.bin", b"", "expected 30,730,000 bytes, got an empty file"),
        ("test_batch.bin", b"\x0a" + bytes(3072), "expected labels 0 to 9, got 10 at position 0"),
        ("test_batch.bin", None, "test_batch.bin: expected 30,730,000 bytes, found no such file"),
        ("data_batch_1.bin", bytes(3073 * 10_001), "expected 30,730,000 bytes, got 30,733,073: too long"),
    ],
)
def test_bad_cifar10_files(name, contents, match, tmp_path):
    path = write_cifar10(tmp_path / "cifar10") / name
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with pytest.raises(DataError, match=match) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    message = str(error.value)
    assert "https://www.cs.toronto.edu" in message
    assert "\n" not in message


def test_cifar10_without_any_training_file(tmp_path):
    write_cifar10(tmp_path / "cifar10", train=())
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected 30,730,000 bytes, found no such file"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "cifar10").is_dir(), reason="CLJAX_DATA names no folder with a folder cifar10"
)
def test_real_cifar10_files():
    data = load_dataset("cifar10", data_dir=REAL, num_train=1000, num_test=500)
    assert data.train_inputs.shape == (1000, 32, 32, 3)
    assert data.test_inputs.shape == (500, 32, 32, 3)
    assert np.bincount(data.train_targets, minlength=10).min() > 0
    assert abs(data.train_inputs.mean()) < 0.1
