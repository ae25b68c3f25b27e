"""The spectral density of a checkpoint, from its file, against the dense matrix of the same network."""

import json

import numpy as np
import pytest

from cljax import losses, training
from cljax.training.checkpoint import Checkpoints
from cljax.training.run import make_run
from cljax.training.spectrum import checkpoint_spectrum
from tests.oracles import dense_gauss_newton, dense_hessian
from tests.runs import tiny


def test_means_and_extremes_of_both_matrices(tmp_path):
    config = tiny(tmp_path, model_option=("hidden=(4,)",), measure_examples=16, measure_every=12, max_products=80)
    training.fit(config, progress=False)
    found = checkpoint_spectrum(config.directory, step=8, num_probes=8, num_steps=10)
    assert found.step == 8
    saved = json.loads((config.directory / "spectrum-8.json").read_text())
    assert saved["step"] == 8
    run, like = make_run(config)
    params = Checkpoints(config.directory / "checkpoints").restore(like, 8).state.train.params
    batch = run.curvature_batch
    dense = {
        "hessian": dense_hessian(losses.objective(run.apply_fn, run.loss), params, batch),
        "gauss_newton": dense_gauss_newton(run.apply_fn, run.loss, params, batch),
    }
    for name, matrix in dense.items():
        eigenvalues, entry = np.linalg.eigvalsh(matrix.astype(float)), saved[name]
        assert entry["dimension"] == len(matrix)
        assert entry["num_products"] == 80
        assert np.shape(entry["nodes"]) == np.shape(entry["weights"])
        assert np.shape(entry["reach"]) == (*np.shape(entry["nodes"]), 2)
        error = abs(entry["mean_eigenvalue"] - eigenvalues.mean())
        assert error < 5 * entry["mean_eigenvalue_standard_error"]
        gap = np.abs(np.array(entry["extreme_values"]) - eigenvalues[[0, -1]])
        rounding = 100 * np.finfo(np.float32).eps * np.abs(eigenvalues).max()
        assert (gap <= np.array(entry["extreme_residual_norms"]) + rounding).all()
    found = checkpoint_spectrum(config.directory, step=8, num_probes=1, num_steps=5, search_steps=30)
    top = found.densities["hessian"].eigenvalue_count_samples(
        0.999 * float(found.extremes["hessian"].values[1]), np.inf
    )
    np.testing.assert_allclose(top, 1, rtol=1e-3)  # the search has found the greatest eigenvalue
    assert found.densities["hessian"].num_products == 35


def test_a_step_without_checkpoint(tmp_path):
    config = tiny(tmp_path, num_steps=2, measure_every=2)
    training.fit(config, progress=False)
    with pytest.raises(ValueError, match=r"step: expected one of the checkpoints \[0, 2\]"):
        checkpoint_spectrum(config.directory, step=1)
