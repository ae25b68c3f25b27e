"""A progress bar with the live figures of a run."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _FiguresBelow(Progress):
    """The bar in a line of its own, which the figures would fill on a terminal of 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield task.fields["figures"]


class RunProgress:
    """Progress of a run on standard error; use as a context manager.

    Args:
        num_steps: steps of the whole run.
        shown: False for silence.
    """

    def __init__(self, num_steps: int, shown: bool = True) -> None:
        self._console = Console(stderr=True)
        self._progress = _FiguresBelow(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not shown,
        )
        self._task = self._progress.add_task("run", total=num_steps, figures="compiling")

    def __enter__(self) -> "RunProgress":
        self._progress.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._progress.stop()

    def step(self, step: int) -> None:
        """Show the steps done.

        Args:
            step: how many.
        """
        self._progress.update(self._task, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        """Show the figures of a measurement.

        Args:
            row: the row.
        """
        figures = [f"loss {row['train_loss']:.4f}", f"test acc {row['test_accuracy']:.1%}"]
        if row["hessian_top"]:
            figures.append(f"λmax {row['hessian_top'][0]:.3g} (2/lr {row['two_over_lr']:.3g})")
        if row["hessian_bottom"]:
            figures.append(f"λmin {row['hessian_bottom'][0]:.3g}")
        figures.append(f"energy {row['gradient_energy']:.3g}")
        if "structure_min" in row:
            figures.append(f"structure {row['structure_min']:.3g}..{row['structure_max']:.3g}")
        self._progress.update(self._task, completed=row["step"], figures="  ".join(figures))
