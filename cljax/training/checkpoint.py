"""Checkpoints of a run: atomic, checked when read, and falling back to the one before where one is broken.

All processes write their parts and read theirs, into whatever shardings the run has now; process 0 computes and checks
the checksums.
"""

import dataclasses
import fnmatch
import hashlib
import json
import logging
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cljax._typing import PyTree
from cljax.parallel.distributed import everywhere, is_writer, on_writer
from cljax.training.config import write_text

MANIFEST = "manifest.json"
"""File of a checkpoint that has the checksums of all others; written last, so that a whole checkpoint has one."""

logging.getLogger("absl").setLevel(logging.ERROR)


def check_folder(directory: pathlib.Path) -> None:
    """Refuse a folder in which the storage layer finds its own files no more: it takes the path for a pattern.

    Args:
        directory: where a run shall be.

    Raises:
        ValueError: if its path has brackets that match other names, or a backslash.
    """
    path = directory.absolute().as_posix()
    if "\\" in path or not fnmatch.fnmatchcase(path, path):
        raise ValueError(
            "run_dir: expected a path without brackets and backslashes, with which checkpoints cannot be read, "
            f"got {path}"
        )


class CheckpointError(ValueError):
    """No checkpoint of the run can be used; the message names each and why.

    Args:
        message: the same.
        skipped: one line for each checkpoint that cannot be used.
    """

    def __init__(self, message: str, skipped: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.skipped = skipped


@dataclasses.dataclass(frozen=True)
class Restored:
    """What was read.

    Attributes:
        step: of the checkpoint.
        state: the pytree that was saved.
        num_rows: measurements that had been written.
        skipped: one line for each newer checkpoint that could not be used.
    """

    step: int
    state: PyTree
    num_rows: int
    skipped: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: folder that holds them.
        keep: how many of the newest are kept.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 3) -> None:
        self._directory = directory.absolute()
        self._keep = keep
        self._options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending, as process 0 sees them; all must call."""
        there: list[int] = []
        if self._directory.is_dir():
            with ocp.CheckpointManager(self._directory, options=self._options) as manager:
                there = sorted(manager.all_steps())
        steps: list[int] = on_writer(lambda: there)
        return steps

    def save(self, step: int, state: PyTree, num_rows: int) -> None:
        """Write a checkpoint; it appears under its step only when it is whole.

        Args:
            step: its name; one that is there already is replaced.
            state: pytree of arrays and typed PRNG keys, which may span processes; all must call.
            num_rows: measurements written so far.
        """
        arrays = jax.tree.map(_to_array, state)
        with ocp.CheckpointManager(self._directory, options=self._options) as manager:
            if step in manager.all_steps():
                manager.delete(step)
            manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(arrays)), force=True)
            manager.wait_until_finished()
            if is_writer():  # each process has written its part: the manager waits for all
                folder = self._directory / str(step)
                manifest = {"num_rows": num_rows, "sha256": _checksums(folder)}
                write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            # only now: a run that is killed before the checkpoint has its checksums goes on from the one before
            steps = sorted(manager.all_steps())
            for old in [other for other in steps if other != step][: max(0, len(steps) - self._keep)]:
                manager.delete(old)

    def restore(self, like: PyTree, step: int | None = None, *, max_rows: int | None = None) -> Restored:
        """Read the newest checkpoint that is whole, or one.

        Args:
            like: pytree of arrays and keys with the structure, shapes, dtypes and shardings to read into.
            step: None, or of the checkpoint to read.
            max_rows: skip checkpoints before which more measurements had been written.

        Returns:
            The state, and what had to be skipped.

        Raises:
            CheckpointError: if there is none, or not that one.
        """
        steps, skipped = self.steps(), list[str]()
        if step is not None and step not in steps:
            raise CheckpointError(f"step: expected one of the checkpoints {steps} in {self._directory}, got {step}")
        for candidate in reversed(steps if step is None else [step]):
            folder = self._directory / str(candidate)
            num_rows, broken = on_writer(partial(_check, folder))
            if broken is None and max_rows is not None and num_rows > max_rows:
                skipped.append(
                    f"checkpoint {folder} needs the first {num_rows} rows of the run, of which {max_rows} exist"
                )
                continue
            if broken is None:
                try:
                    state = self._read(candidate, like)
                except Exception as error:  # a broken file can surface as any of the storage layer's exceptions
                    broken = _first_line(error)
                if not everywhere(broken is None):
                    broken = broken or "another process cannot"
            if broken is None:
                return Restored(candidate, state, num_rows, tuple(skipped))
            skipped.append(f"checkpoint {folder} cannot be read: {broken}")
        why = "; ".join(skipped) or "there is none"
        remedy = "run it anew" if step is None else "name another step"
        raise CheckpointError(
            f"{self._directory}: expected a readable checkpoint, got none ({why}); {remedy}", tuple(skipped)
        )

    def _read(self, step: int, like: PyTree) -> PyTree:
        abstract = jax.tree.map(lambda x: ocp.utils.to_shape_dtype_struct(_to_array(x)), like)
        with ocp.CheckpointManager(self._directory, options=self._options) as manager:
            items = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        return jax.tree.map(_from_array, items["state"], like)


def _check(folder: pathlib.Path) -> tuple[int, str | None]:
    """How many rows a checkpoint knows, and what is broken in it."""
    # before the storage layer sees them: broken files can fail in its threads, out of reach
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        num_rows, expected = int(manifest["num_rows"]), dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, f"its {MANIFEST} is missing or broken"
    found = _checksums(folder)
    broken = sorted(name for name, checksum in expected.items() if found.get(name) != checksum)
    return num_rows, f"its file {broken[0]} is missing or does not match its checksum" if broken else None


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def _to_array(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _from_array(x: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint but its manifest, by path within it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(MANIFEST))
    checksums = {}
    for path in files:
        with path.open("rb") as file:
            checksums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
