"""Options of the host loop: a progress bar, and a file from which an interrupted run goes on."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator
from typing import Any

import jax

from cljax._checks import check_positive_int
from cljax.spectral.goal import Goal, residual_bound
from cljax.spectral.krylov import KrylovState
from cljax.spectral.projected import compiled_on_device, namespace, on_host
from cljax.spectral.ritz import ritz_pairs


@dataclasses.dataclass(frozen=True)
class HostLoop:
    """``driver="host"`` with options, for ``lanczos``, ``extreme_eigenpairs`` and ``spectral_density``.

    A run with a checkpoint file that is killed and called again, with the same arguments and in the same environment,
    goes on from its last checkpoint and gives the coefficients of a run that was never interrupted, bit for bit on
    CPUs. Resuming takes one product more, which is not counted: the last one is repeated and compared, since an
    operator may hold data that a file cannot know. A file of another call is refused, and so is a broken one.

    The file stays when the run has ended, and the same call returns from it again; it is for the caller to delete.
    It holds the basis: (products + 1) vectors. One process only.

    Attributes:
        progress: show a progress bar on standard error: products done and, of a search for eigenpairs, the extreme Ritz
            values and the greatest residual in units of the one that would be enough. Each look waits for the device.
        checkpoint: None, or the path of the file, made when it is not there; replaced at once or not at all.
        checkpoint_every: products between two writes; another write is at the end.

    Example:
        >>> import pathlib, tempfile
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(3), jnp.array([1.0, -3.0, 2.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loop = spectral.HostLoop(checkpoint=pathlib.Path(folder, "run.npz"))
        ...     pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), driver=loop)
        >>> pairs.values.round(3).tolist()
        [2.0]
    """

    progress: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int = 8

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: if ``checkpoint_every`` is below 1.
            TypeError: if it is no integer, or ``checkpoint`` no path.
        """
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint: expected the path of a file, got {type(self.checkpoint).__name__}")
        check_positive_int("checkpoint_every", self.checkpoint_every)


Show = Callable[[Any], None]


@contextlib.contextmanager
def progress_bar(shown: bool, num_steps: int, goal: Goal | None) -> Generator[Show, None, None]:
    """A progress bar of a Krylov run on standard error.

    Args:
        shown: False for silence.
        num_steps: most products.
        goal: what the run looks for, or None.

    Yields:
        A function that shows where a run is, by its ``numbers``; it waits for the device.
    """
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("products"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("run", total=num_steps, found="")

        def show(run: Any) -> None:
            state, found = dataclasses.replace(run.numbers, basis=None, vector=None), ""
            if goal is not None:
                found = _words(*_figures(state, goal.on_host() if on_host(state.matrix) else goal))
            progress.update(task, completed=int(state.num_products), found=found)

        yield show


@compiled_on_device
def _figures(state: KrylovState, goal: Goal) -> tuple[jax.Array, jax.Array]:
    pairs = ritz_pairs(state, goal.num_top, goal.num_bottom)
    bounds = residual_bound(pairs.values, pairs.norm, goal.tol)
    return pairs.values, namespace(bounds).max(pairs.residual_norms / bounds)


def _words(values: Any, ratio: Any) -> str:
    ends = " to ".join(f"{value:.4g}" for value in sorted({float(values[0]), float(values[-1])}))
    return f"λ {ends}, residual {float(ratio):.2g} × tolerance"
