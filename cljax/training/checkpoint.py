"""Checkpoints of a run: atomic, checked when read, and falling back to the one before where one is broken."""

import dataclasses
import hashlib
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cljax._typing import PyTree

logging.getLogger("absl").setLevel(logging.ERROR)


class CheckpointError(ValueError):
    """No checkpoint of the run can be read; the message names each and why."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What was read.

    Attributes:
        step: of the checkpoint.
        state: the pytree that was saved.
        num_rows: measurements that had been written.
        skipped: one line for each newer checkpoint that could not be read.
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
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        if not self._directory.is_dir():
            return []
        with ocp.CheckpointManager(self._directory, options=self._options) as manager:
            return sorted(manager.all_steps())

    def save(self, step: int, state: PyTree, num_rows: int) -> None:
        """Write a checkpoint; it appears under its step only when it is whole.

        Args:
            step: its name; one that is there already is replaced.
            state: pytree of arrays and typed PRNG keys.
            num_rows: measurements written so far.
        """
        arrays = jax.tree.map(_to_array, state)
        info = {"num_rows": num_rows, "sha256": _digest(arrays)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), info=ocp.args.JsonSave(info))
        with ocp.CheckpointManager(self._directory, options=self._options) as manager:
            if step in manager.all_steps():
                manager.delete(step)
            manager.save(step, args=items, force=True)
            manager.wait_until_finished()

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """Read the newest checkpoint that is whole, or one.

        Args:
            like: pytree of arrays and keys with the structure, shapes, dtypes and shardings to read into.
            step: None, or of the checkpoint to read.

        Returns:
            The state, and what had to be skipped.

        Raises:
            CheckpointError: if there is none, or not that one.
        """
        steps, skipped = self.steps(), list[str]()
        if step is not None and step not in steps:
            raise CheckpointError(f"step: expected one of the checkpoints {steps} in {self._directory}, got {step}")
        for candidate in reversed(steps if step is None else [step]):
            try:
                state, num_rows = self._read(candidate, like)
            except Exception as error:  # a broken file can surface as any of the storage layer's exceptions
                skipped.append(f"checkpoint {self._directory / str(candidate)} cannot be read: {_first_line(error)}")
                continue
            return Restored(candidate, state, num_rows, tuple(skipped))
        why = "; ".join(skipped) or "there is none"
        raise CheckpointError(f"{self._directory}: expected a readable checkpoint, got none ({why}); run it anew")

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, int]:
        abstract = jax.tree.map(lambda x: ocp.utils.to_shape_dtype_struct(_to_array(x)), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), info=ocp.args.JsonRestore())
        with ocp.CheckpointManager(self._directory, options=self._options) as manager:
            found = manager.restore(step, args=items)
        if _digest(found["state"]) != found["info"]["sha256"]:
            raise CheckpointError("its contents do not match their checksum")
        return jax.tree.map(_from_array, found["state"], like), int(found["info"]["num_rows"])


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def _to_array(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _from_array(x: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x


def _digest(arrays: PyTree) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
