"""Finding and reading data files; every failure says which file, what was expected and where to get it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from cljax.training.datasets.dataset import DataError

PathLike = str | os.PathLike[str]

HOW = "name its folder with --data-dir (data_dir=) or the environment variable CLJAX_DATA"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set's files in words.

    Attributes:
        name: name in the registry, which is also the folder looked for.
        folders: other folder names looked for, as the official archive unpacks.
        url: where to get the files.
    """

    name: str
    folders: tuple[str, ...]
    url: str

    @property
    def remedy(self) -> str:
        """The end of a message: where to get the files and how to point to them."""
        return f"get it from {self.url} and {HOW}"


def find_folder(source: Source, data_dir: PathLike | None, wanted: Sequence[tuple[str, str]]) -> Path:
    """The folder that holds at least one of the wanted files.

    Looked for in this order: DIR/name, its sub-folders of the official archive, those under DIR, and DIR itself.

    Args:
        source: the data set.
        data_dir: the folder DIR given; None takes the environment variable CLJAX_DATA.
        wanted: (file name, expected size in words) of each file.

    Returns:
        The folder.

    Raises:
        DataError: if no folder was named, it is not there, or it holds none of the files.
    """
    root = data_dir if data_dir is not None else os.environ.get("CLJAX_DATA")
    files = ", ".join(f"{name} ({size})" for name, size in wanted)
    if not root:
        raise DataError(f"{source.name}: expected {files}, got no data folder; {source.remedy}")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"{source.name}: expected a folder with {files}, got {base}, which is none; {source.remedy}")
    named = base / source.name
    places = [named, *(named / sub for sub in source.folders), *(base / sub for sub in source.folders), base]
    for place in places:
        if any((place / name).is_file() for name, _ in wanted):
            return place
    raise DataError(f"{source.name}: expected {files} in {named} or {base}, found none of them; {source.remedy}")


def read_bytes(source: Source, path: Path, expected: str) -> bytes:
    """The contents of a file.

    Args:
        source: the data set, for the message.
        path: the file.
        expected: its expected size in words.

    Returns:
        All of its bytes, at least one.

    Raises:
        DataError: if it is missing, cannot be read, or is empty.
    """
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: expected {expected}, found no such file; {source.remedy}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path}: expected {expected}, cannot read it: {reason}; {source.remedy}") from error
    if not contents:
        raise DataError(f"{path}: expected {expected}, got an empty file; {source.remedy}")
    return contents


def check_labels(source: Source, path: Path, labels, num_classes: int) -> None:
    """Require labels in 0..num_classes-1.

    Args:
        source: the data set, for the message.
        path: the file the labels come from.
        labels: uint8 array of shape (n,).
        num_classes: number of classes.

    Raises:
        DataError: if a label is out of range.
    """
    if labels.max() >= num_classes:
        first = int((labels >= num_classes).argmax())
        raise DataError(
            f"{path}: expected labels 0 to {num_classes - 1}, got {int(labels[first])} at position {first}: "
            f"the file is corrupt; {source.remedy}"
        )
