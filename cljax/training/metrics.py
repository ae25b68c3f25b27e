"""Rows of measurements: JSON lines that survive a crash, and TensorBoard events."""

import functools
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from cljax.parallel.placement import host_values
from cljax.spectral.eigenpairs import Status, status_names
from cljax.training.config import write_text
from cljax.training.record import Record

TIMING_FIELDS = ("seconds_training", "seconds_measuring")
"""Fields of a row that differ from run to run."""

FAILED = frozenset(status_names([status for status in Status if status > Status.LIKELY]))
"""What a row says of an eigenvalue whose error is above the tolerance."""


def record_fields(record: Record, num_bottom: int) -> dict[str, Any]:
    """The figures of a record as plain numbers and lists.

    Args:
        record: from the tracker; with several processes all must call.
        num_bottom: how many of its Hessian eigenvalues are bottom ones.

    Returns:
        Fields of a row; top eigenvalues descending, bottom ones ascending, so that the extreme one comes first.
    """
    host: Record = host_values(record)
    spectrum = host.hessian
    ends = {"bottom": slice(0, num_bottom), "top": slice(None, num_bottom - 1 if num_bottom else None, -1)}
    fields: dict[str, Any] = {
        "curvature_loss": float(host.loss),
        "gradient_norm": float(host.gradient_norm),
    }
    if host.gradient_energy is not None:
        fields["gradient_energy"] = float(host.gradient_energy)
    for end in ("top", "bottom"):
        fields[f"hessian_{end}"] = spectrum.values[ends[end]].tolist()
        fields[f"hessian_{end}_residual"] = spectrum.residual_norms[ends[end]].tolist()
        fields[f"hessian_{end}_error"] = spectrum.value_errors[ends[end]].tolist()
        fields[f"hessian_{end}_status"] = status_names(spectrum.status[ends[end]])
        fields[f"hessian_{end}_overlap"] = spectrum.overlaps[ends[end]].tolist()
    fields["hessian_products"] = int(spectrum.num_products)
    fields["hessian_method"] = spectrum.method
    fields["hessian_orthogonality"] = float(spectrum.orthogonality)
    fields["hessian_asymmetry"] = float(spectrum.asymmetry)
    fields["hessian_jumped"] = bool(spectrum.jumped)
    fields["hessian_cold"] = bool(spectrum.cold)
    if host.gauss_newton is not None:
        fields["gauss_newton_top"] = float(host.gauss_newton.values[-1])
        fields["gauss_newton_residual"] = float(host.gauss_newton.residual_norms[-1])
        fields["gauss_newton_error"] = float(host.gauss_newton.value_errors[-1])
        fields["gauss_newton_status"] = status_names(host.gauss_newton.status)[-1]
        fields["gauss_newton_products"] = int(host.gauss_newton.num_products)
    for name in ("structure_min", "structure_max", "structure_spread"):
        if getattr(host, name) is not None:
            fields[name] = float(getattr(host, name))
    return fields


class MetricsLog:
    """A file of JSON lines, one row a measurement; each is on the disk before the run goes on.

    Numbers that are not finite are written as NaN, Infinity and -Infinity, as Python's json module reads them.

    Args:
        path: the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """Read all whole rows.

        Returns:
            The rows; a last line that a crash cut off is left out.

        Raises:
            ValueError: if another line is no JSON object.
        """
        if not self._path.exists():
            return []
        contents = self._path.read_bytes()
        rows = []
        for number, line in enumerate(contents[: contents.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{self._path}: expected one JSON object in each line, got another thing in line {number}; "
                    "mend or remove that line"
                )
            rows.append(row)
        return rows

    def truncate(self, num_rows: int) -> list[dict[str, Any]]:
        """Keep the first ``num_rows`` rows, as a checkpoint knows them.

        Args:
            num_rows: how many, at most as many as there are.

        Returns:
            The rows kept.
        """
        rows = self.read()[:num_rows]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Write a row and wait until it is on the disk.

        Args:
            row: plain numbers, strings and lists.
        """
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


class EventLog:
    """TensorBoard events of the same rows; the file is made with the first of them.

    Args:
        directory: folder of the event files.
        first_step: a resumed run hides what an earlier file has from this step on.
    """

    def __init__(self, directory: pathlib.Path, first_step: int = 0) -> None:
        self._directory, self._first_step = directory, first_step

    @functools.cached_property
    def _writer(self) -> Any:
        # only now: where PyTorch is installed the writer imports it, which takes seconds
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self._directory), purge_step=self._first_step or None)

    def append(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row.

        Args:
            row: as for ``MetricsLog``; lists become one series for each place.
        """
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            for index, number in enumerate(values):
                if name != "step" and isinstance(number, (int, float)) and math.isfinite(number):
                    tag = f"{name}/{index + 1}" if isinstance(value, list) else name
                    self._writer.add_scalar(tag, np.float64(number), row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file, if there is one."""
        if "_writer" in vars(self):
            self._writer.close()
