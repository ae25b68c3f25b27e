"""The file of a Krylov run: what it holds, whose it is, and how it is written without ever being half there."""

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.krylov import KrylovState

_FORMAT = 3
_FIELDS = ("matrix", "guess", "used", "num_products", "num_breakdowns", "asymmetry", "rounding", "seed")


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run as it was saved.

    Attributes:
        state: without basis and vector.
        rows: basis vectors, leaf by leaf.
        jumped: whether the spectrum was found to have jumped.
        done: whether the run had ended.
    """

    state: KrylovState
    rows: Sequence[np.ndarray]
    jumped: bool
    done: bool


def fingerprint(op: LinearOperator, arrays: Mapping[str, PyTree], options: Mapping[str, Any]) -> dict[str, str]:
    """What a run is told by: a word for each part, equal for equal calls in different processes.

    Args:
        op: the operator.
        arrays: pytrees of arrays and keys, by what they are.
        options: all else that the run depends on, by name.

    Returns:
        Strings by name.
    """
    space = [(jax.tree_util.keystr(path), x.shape, str(x.dtype)) for path, x in _with_path(op.struct)]
    parts = {"format": str(_FORMAT), "operator": _kind(op), "space": str(space)}
    parts |= {name: str(value) for name, value in options.items()}
    return parts | {name: _checksum(value) for name, value in {"arrays of the operator": op, **arrays}.items()}


def save_run(path: pathlib.Path, parts: Mapping[str, str], run: SavedRun) -> None:
    """Write a run; the file is replaced at once or not at all.

    Args:
        path: the file.
        parts: its fingerprint.
        run: the run.

    Raises:
        ValueError: if the file cannot be written.
    """
    arrays = {name: np.asarray(getattr(run.state, name)) for name in _FIELDS}
    arrays |= {f"basis{index}": rows for index, rows in enumerate(run.rows)}
    save_arrays(path, parts, arrays | {"jumped": np.asarray(run.jumped), "done": np.asarray(run.done)})


def save_arrays(path: pathlib.Path, parts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays with the fingerprint of what they come from; the file is replaced at once or not at all.

    Args:
        path: the file, or a link to it, which stays one.
        parts: the fingerprint.
        arrays: by name.

    Raises:
        ValueError: if the file cannot be written.
    """
    arrays = {**arrays, "parts": np.asarray(json.dumps(parts))}
    target = pathlib.Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ValueError(f"checkpoint: expected a file that can be written, got {path} ({error.strerror})") from error


def load_run(path: pathlib.Path, parts: Mapping[str, str], num_leaves: int) -> SavedRun | None:
    """Read a run.

    Args:
        path: the file.
        parts: the fingerprint that it must have.
        num_leaves: of a vector.

    Returns:
        The run, or None if there is no file.

    Raises:
        ValueError: if the file cannot be read, is broken, or is that of another run.
    """
    names = (*_FIELDS, "jumped", "done", *(f"basis{index}" for index in range(num_leaves)))
    found = load_arrays(path, parts, names)
    if found is None:
        return None
    fields = {name: jnp.asarray(found[name]) for name in _FIELDS}
    rows = [found[f"basis{index}"] for index in range(num_leaves)]
    return SavedRun(KrylovState(basis=None, vector=None, **fields), rows, bool(found["jumped"]), bool(found["done"]))


def load_arrays(path: pathlib.Path, parts: Mapping[str, str], names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Read what ``save_arrays`` wrote.

    Args:
        path: the file.
        parts: the fingerprint that it must have.
        names: of the arrays.

    Returns:
        The arrays by name, or None if there is no file.

    Raises:
        ValueError: if the file cannot be read, is broken, or is that of another run.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            saved = json.loads(str(file["parts"]))
            found = {name: file[name] for name in (names if saved == dict(parts) else ())}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"checkpoint: expected a file that can be read, got {path} ({error.strerror})") from error
    except Exception as error:  # a broken archive can surface as any of its readers' exceptions
        raise ValueError(
            f"checkpoint: {path} is broken ({type(error).__name__}); delete it to run from the start"
        ) from error
    differing = ", ".join(sorted(name for name in {*saved, *parts} if saved.get(name) != parts.get(name)))
    if differing:
        raise ValueError(f"checkpoint: {path} is of another run ({differing} differ); delete it, or give another path")
    return found


def check_repeated(path: pathlib.Path, found: np.ndarray, saved: KrylovState, tolerance: float) -> None:
    """Require that the last product of a saved run comes out again.

    Args:
        path: the file.
        found: coefficients of the product in the basis, (capacity,).
        saved: the state.
        tolerance: relative to the norm of the operator.

    Raises:
        ValueError: if it does not.
    """
    matrix = np.asarray(saved.matrix, np.float64)
    before = matrix[:, int(saved.used) - 1]
    scale = np.sqrt(np.max(np.sum(matrix**2, 0)))
    if np.isfinite(before).all() and not np.linalg.norm(found - before) <= tolerance * scale:
        raise ValueError(
            f"checkpoint: {path} is of another operator or other data: its last product does not come out again; "
            "delete it, or give another path"
        )


def _with_path(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _kind(op: LinearOperator) -> str:
    parts = [_kind(part) for part in vars(op).values() if isinstance(part, LinearOperator)]
    return f"{type(op).__module__}.{type(op).__qualname__}({', '.join(parts)})"


def _checksum(arrays: PyTree) -> str:
    digest = hashlib.sha256()
    for path, x in _with_path(arrays):
        if not isinstance(x, jax.Array | np.ndarray | np.generic | int | float):
            continue
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.ascontiguousarray(x)
        digest.update(f"{jax.tree_util.keystr(path)}{x.dtype}{x.shape}".encode())
        digest.update(x.view(np.uint8).data if x.size and x.ndim else x.tobytes())
    return digest.hexdigest()
