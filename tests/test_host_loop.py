"""The host loop's options: runs that are killed and go on exactly, files that are refused, a progress bar."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import curvature, losses, spectral
from tests.problems import SHANNON, mlp, problem
from tests.test_lanczos import MATRICES, operator

ROOT = pathlib.Path(__file__).parent.parent
KEY = jax.random.key(0)
OBJECTIVE = losses.objective(mlp, SHANNON)
STEPS, EVERY = 18, 4


class StoppedError(Exception):
    pass


class Data:
    """Three batches that count how often they are read, and do something in the middle of one pass."""

    def __init__(self, fail_at=None, fail=None):
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((33, 4)).astype(np.float32)
        self.batches = [cljax.Batch(inputs[a:b], np.arange(a, b) % 3) for a, b in ((0, 16), (16, 32), (32, 33))]
        self.passes, self.fail_at, self.fail = -1, fail_at, fail  # the first one is for the structure alone

    def __call__(self):
        self.passes += 1
        for index, batch in enumerate(self.batches):
            if index == 1 and self.passes == self.fail_at:
                self.fail()
            yield batch


def streamed(data, scale=1.0):
    params = jax.tree.map(lambda x: scale * x, problem("softmax-mlp", jnp.float32).params)
    return curvature.streamed(lambda batch: curvature.hessian(OBJECTIVE, params, batch), data)


def stop():
    raise StoppedError


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def lanczos_run(path, data):
    loop = spectral.HostLoop(checkpoint=path, checkpoint_every=EVERY)
    return spectral.lanczos(streamed(data), KEY, STEPS, driver=loop)


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.fast
def test_killed_in_the_middle_it_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "folder" / "run.npz"
    code = (
        "import sys; from tests import test_host_loop as t; t.lanczos_run(sys.argv[1], t.Data(fail_at=11, fail=t.kill))"
    )
    ended = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert [file.name for file in path.parent.iterdir()] == ["run.npz"]
    data = Data()
    resumed = lanczos_run(path, data)
    assert data.passes == STEPS - 2 * EVERY + 1  # the last one that was saved is repeated
    whole = spectral.lanczos(streamed(Data()), KEY, STEPS, driver="host")
    assert same(resumed, whole)
    assert resumed.num_products == STEPS
    data = Data()
    assert same(lanczos_run(path, data), whole)  # a finished run is there again
    assert data.passes == 1


MODES = {
    "all": (spectral.Memory(), 1),
    "restarts": (spectral.Memory(basis_size=10), 2),
    "bfloat16": (spectral.Memory(half=True), 1),
    "offload": (spectral.Memory(basis_size=10, offload=True), 2),
}


@pytest.mark.parametrize("name", MODES)
def test_a_search_goes_on_exactly(name, tmp_path):
    memory, block_size = MODES[name]
    options = {"num_top": 2, "tol": 1e-7, "max_products": 20, "memory": memory, "block_size": block_size}
    whole = spectral.extreme_eigenpairs(streamed(Data()), KEY, **options)
    loop = spectral.HostLoop(checkpoint=str(tmp_path / "run.npz"), checkpoint_every=5)
    for fail_at in (4, 13, 5):  # before the first write, after that at 10, and again
        with pytest.raises(StoppedError):
            spectral.extreme_eigenpairs(streamed(Data(fail_at, stop)), KEY, driver=loop, **options)
    assert same(spectral.extreme_eigenpairs(streamed(Data()), KEY, driver=loop, **options), whole)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_a_density_goes_on_exactly(reorthogonalize, tmp_path):
    options = {"num_probes": 3, "num_steps": 6, "reorthogonalize": reorthogonalize}
    whole = spectral.spectral_density(streamed(Data()), KEY, **options)
    path = tmp_path / "density.npz"
    loop = spectral.HostLoop(checkpoint=path, checkpoint_every=2)
    with pytest.raises(StoppedError):  # in the second probe, at its fourth product
        spectral.spectral_density(streamed(Data(10, stop)), KEY, driver=loop, **options)
    own = ["density.npz.probe1"] if reorthogonalize else []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["density.npz", *own]
    data = Data()
    assert same(spectral.spectral_density(streamed(data), KEY, driver=loop, **options), whole)
    # what was saved is not multiplied again, but for products that are compared: of the first probe, and the last one
    assert data.passes == (1 + 5 + 6 if reorthogonalize else 1 + 12)
    assert [file.name for file in tmp_path.iterdir()] == ["density.npz"]
    with pytest.raises(ValueError, match="is of another run .*products.* differ"):
        spectral.spectral_density(streamed(Data()), KEY, driver=loop, **{**options, "num_steps": 5})
    other = Data()
    other.batches = [dataclasses.replace(batch, inputs=3 * batch.inputs) for batch in other.batches]
    with pytest.raises(ValueError, match="other data: its first product does not come out again; delete"):
        spectral.spectral_density(streamed(other), KEY, driver=loop, **options)


def search(path, scale=1.0, seed=0, num_top=1, matrix=MATRICES["path"], certify=True):
    op = operator(scale * matrix)
    options = {"num_top": num_top, "max_products": 12, "certify": certify}
    return spectral.extreme_eigenpairs(op, jax.random.key(seed), driver=spectral.HostLoop(checkpoint=path), **options)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"scale": 1.001}, "arrays of the operator"),
        ({"seed": 1}, "key, start vectors"),
        ({"num_top": 2}, "pairs"),
        ({"certify": False}, "pairs"),
        ({"matrix": np.eye(30)}, "arrays of the operator, space"),
    ],
)
def test_a_file_of_another_run_is_refused(changes, what, tmp_path):
    path = tmp_path / "run.npz"
    search(path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=f"checkpoint: .*run.npz is of another run .*{what}.* delete it, or give"
    ) as error:
        search(path, **changes)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_parameters_that_the_file_cannot_know_are_noticed(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(StoppedError):
        lanczos_run(path, Data(6, stop))
    loop = spectral.HostLoop(checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint: .* other data: its last product does not come out again; delete"):
        spectral.lanczos(streamed(Data(), scale=1.01), KEY, STEPS, driver=loop)


def damaged(content):
    middle = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "text": b"not an archive",
    }


@pytest.mark.parametrize("name", damaged(b"x"))
def test_a_broken_file_is_refused(name, tmp_path):
    path = tmp_path / "run.npz"
    search(path)
    path.write_bytes(damaged(path.read_bytes())[name])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint: .*run.npz is broken .*; delete it to run from the start"):
        search(path)
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    search(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: stop())
    with pytest.raises(StoppedError):
        spectral.lanczos(operator(MATRICES["path"]), KEY, 8, driver=spectral.HostLoop(checkpoint=tmp_path / "new.npz"))
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    assert path.read_bytes() == before


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "large-disk").mkdir()
    path, file = tmp_path / "run.npz", tmp_path / "large-disk" / "run.npz"
    path.symlink_to(file)
    for _ in range(2):
        spectral.lanczos(operator(MATRICES["path"]), KEY, 8, driver=spectral.HostLoop(checkpoint=path))
        assert path.is_symlink()
        assert [one.name for one in file.parent.iterdir()] == ["run.npz"]


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    loop = spectral.HostLoop(checkpoint=tmp_path / ("n" * 254))  # no room for the name before it is whole
    with pytest.raises(ValueError, match="checkpoint: expected a file that can be written, got .*too long"):
        spectral.lanczos(operator(MATRICES["path"]), KEY, 8, driver=loop)


def test_blocks_whose_names_are_paths_have_files_in_one_folder(tmp_path):
    blocks = {"net": lambda path: True, "net/0": lambda path: path == "", "../net": lambda path: True}
    loop = spectral.HostLoop(checkpoint=tmp_path / "run.npz")
    op = operator(MATRICES["path"])
    spectral.block_densities(op, KEY, blocks, num_probes=1, num_steps=3, driver=loop)
    names = ["run.npz...%2Fnet", "run.npz.net", "run.npz.net%2F0"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_progress_bar(capsys):
    loop = spectral.HostLoop(progress=True)
    shown = spectral.extreme_eigenpairs(operator(MATRICES["path"]), KEY, num_top=2, max_products=61, driver=loop)
    text = capsys.readouterr()
    assert text.out == ""
    assert f"{int(shown.num_products)}/60" in text.err
    assert f"{shown.values[0]:.4g} to {shown.values[1]:.4g}" in text.err
    spectral.lanczos(operator(MATRICES["path"]), KEY, 5, driver=loop)
    assert "5/5" in capsys.readouterr().err


def test_where_it_cannot_run():
    op = operator(MATRICES["path"])
    with pytest.raises(ValueError, match="driver: expected 'compiled' or 'auto' inside of jit"):
        jax.jit(lambda op: spectral.lanczos(op, KEY, 3, driver=spectral.HostLoop()).alphas)(op)
    for loop in (spectral.HostLoop(progress=True), spectral.HostLoop(checkpoint="run.npz")):
        with pytest.raises(ValueError, match="driver: expected no options of the host loop here"):
            spectral.trace(op, KEY, driver=loop)
    assert spectral.trace(op, KEY, max_products=4, driver=spectral.HostLoop()).num_products == 4
    with pytest.raises(ValueError, match="checkpoint_every: expected an integer of at least 1"):
        spectral.HostLoop(checkpoint_every=0)
    with pytest.raises(TypeError, match="checkpoint: expected the path of a file, got int"):
        spectral.HostLoop(checkpoint=3)
    with pytest.raises(ValueError, match="checkpoint: expected a file that can be read"):
        spectral.lanczos(op, KEY, 3, driver=spectral.HostLoop(checkpoint="."))
