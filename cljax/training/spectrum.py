"""Spectral densities of Hessian and Gauss-Newton matrix at a checkpoint of a run."""

import dataclasses
import json
import pathlib
from typing import Any

import jax

from cljax.curvature.base import LinearOperator
from cljax.curvature.diagonal import shift
from cljax.curvature.gauss_newton import gauss_newton
from cljax.curvature.hessian import hessian
from cljax.losses.objective import objective
from cljax.parallel.distributed import is_writer
from cljax.parallel.placement import host_values
from cljax.spectral.density import SpectralDensity, spectral_density
from cljax.spectral.eigenpairs import Eigenpairs, status_names
from cljax.spectral.extremes import extreme_eigenpairs
from cljax.training.checkpoint import Checkpoints
from cljax.training.config import RunConfig, write_text
from cljax.training.loop import CHECKPOINTS, CONFIG
from cljax.training.run import make_run


@dataclasses.dataclass(frozen=True)
class CheckpointSpectrum:
    """Spectral densities at one checkpoint.

    Attributes:
        step: of the checkpoint.
        path: the JSON file written.
        densities: "hessian" and "gauss_newton".
        extremes: extreme eigenvalues of each, with residuals.
        notes: checkpoints that could not be read.
    """

    step: int
    path: pathlib.Path
    densities: dict[str, SpectralDensity]
    extremes: dict[str, Eigenpairs]
    notes: tuple[str, ...] = ()


def checkpoint_spectrum(
    run_dir: str | pathlib.Path,
    *,
    step: int | None = None,
    num_probes: int | None = None,
    num_steps: int | None = None,
    search_steps: int = 0,
    num_devices: int | None = None,
    mesh: str | None = None,
) -> CheckpointSpectrum:
    """Measure spectral densities on the run's curvature batch and write them to spectrum-STEP.json.

    With several processes all must call, and process 0 writes.

    Args:
        run_dir: folder of the run.
        step: of the checkpoint, the newest readable one where None.
        num_probes: random probes; as the run's configuration says where None.
        num_steps: Lanczos steps for each; as the run's configuration says where None.
        search_steps: products of a run that first finds the outliers, see ``spectral_density``.
        num_devices: devices to measure with; as the run's configuration says where None.
        mesh: their axes, the same.

    Returns:
        The densities and extreme eigenvalues.

    Raises:
        ValueError: if the folder holds no run or no such checkpoint, or a number is below 1.
    """
    directory = pathlib.Path(run_dir)
    config = RunConfig.load(directory / CONFIG).on_devices(num_devices, mesh)
    run, like = make_run(config)
    restored = Checkpoints(directory / CHECKPOINTS, config.keep_checkpoints).restore(like, step)
    params, batch, size = restored.state.train.params, run.curvature_batch, config.microbatch_size
    operators: dict[str, LinearOperator] = {
        "hessian": hessian(objective(run.apply_fn, run.loss), params, batch, microbatch_size=size),
        "gauss_newton": gauss_newton(run.apply_fn, run.loss, params, batch, microbatch_size=size),
    }
    num_probes = config.density_probes if num_probes is None else num_probes
    num_steps = config.density_steps if num_steps is None else num_steps
    densities, extremes = {}, {}
    for name, plain in operators.items():
        op = shift(plain, config.tracked_decay)
        key, extreme_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), restored.step))
        density = spectral_density(op, key, num_probes=num_probes, num_steps=num_steps, search_steps=search_steps)
        densities[name] = host_values(density)
        extremes[name] = extreme_eigenpairs(
            op, extreme_key, num_top=1, num_bottom=1, tol=config.tol, max_products=config.max_products
        )
    path = directory / f"spectrum-{restored.step}.json"
    found = CheckpointSpectrum(restored.step, path, densities, extremes, restored.skipped)
    text = json.dumps(_as_json(found), indent=1) + "\n"
    if is_writer():
        write_text(path, text)
    return found


def _as_json(found: CheckpointSpectrum) -> dict[str, Any]:
    fields: dict[str, Any] = {"step": found.step}
    for name, density in found.densities.items():
        extremes = found.extremes[name]
        mean, error = density.moments(1)
        fields[name] = {
            "dimension": density.dimension,
            "num_products": density.num_products,
            "mean_eigenvalue": float(mean),
            # one probe has no standard error, and JSON no NaN
            "mean_eigenvalue_standard_error": None if len(density.nodes) == 1 else float(error),
            "nodes": density.nodes.tolist(),
            "weights": density.weights.tolist(),
            "reach": density.reach.tolist(),
            "extreme_values": host_values(extremes.values).tolist(),
            "extreme_residual_norms": host_values(extremes.residual_norms).tolist(),
            "extreme_status": status_names(host_values(extremes.status)),
        }
    return fields
