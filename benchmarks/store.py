"""A result file that grows group by group: what it has is not measured again, and a run that dies loses one group."""

import contextlib
import os
import pathlib
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from benchmarks.harness import FORMAT, read_results, write_results
from benchmarks.machine import environment
from benchmarks.reading import group_of


class Store:
    """Rows of one suite, kept in a file.

    A group is the rows that were timed against each other. It is complete where it has a row of each estimator that is
    wanted, measured with the version that is installed now, or known to be missing if it still is.

    Args:
        path: the file; read where it exists.
        benchmark: name of the suite.
        settings: what else goes into a new file, such as the size.
        overwrite: measure groups again that are there, and keep the others; replace a file of another suite or size.

    Raises:
        ValueError: if the file is one of another suite or size, and is not to be replaced.
    """

    def __init__(self, path: pathlib.Path, benchmark: str, settings: Mapping[str, Any], overwrite: bool) -> None:
        self.path = path
        self._results: dict[str, Any] = {"format": FORMAT, "benchmark": benchmark, **settings}
        self._results |= {"environment": environment(), "environments": {}, "problems": {}, "rows": []}
        self._overwrite, self._measured = overwrite, set[str]()
        self._wanted = {"benchmark": benchmark, **settings}
        if path.exists():
            found = read_results(path)
            if (key := self._other(found)) and not overwrite:
                raise ValueError(
                    f"output: expected a file of {key} {self._wanted[key]!r}, got {found[key]!r} in {path}"
                )
            self._results = self._results if key else found

    def _other(self, found: Mapping[str, Any]) -> str | None:
        """What makes a file one of another suite or size, None if it is of this one."""
        return next((key for key, value in self._wanted.items() if found.get(key, value) != value), None)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows."""
        return self._results["rows"]

    def has(self, group: str, versions: Mapping[str, str | None]) -> bool:
        """Whether a group is complete.

        Args:
            group: its key.
            versions: of the estimators that are wanted, None of those whose package is missing.

        Returns:
            Whether there is nothing to measure.
        """
        if self._overwrite and group not in self._measured:
            return False
        found = {row.get("estimator"): row.get("version") for row in self.rows if group_of(row) == group}
        return bool(found) and all(name in found and found[name] == version for name, version in versions.items())

    def estimators(self, group: str) -> set[str]:
        """Names of the estimators that a group has.

        Args:
            group: its key.

        Returns:
            The names; none where the group is not there.
        """
        return {row["estimator"] for row in self.rows if group_of(row) == group and row["status"] != "unit"}

    def put(
        self,
        group: str,
        problem: str,
        config: Any,
        rows: Iterable[Mapping[str, Any]],
        measured_in: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace a group, in its place, and write the file, at once or not at all, with what others wrote to it since.

        Args:
            group: its key.
            problem: name of the case.
            config: what it was made of.
            rows: of the group.
            measured_in: the environment when the group began, that of now where it is not given.
        """
        self._measured.add(group)
        with _alone(self.path.parent):
            self._read_again()
            self._put(group, problem, config, rows, environment() if measured_in is None else measured_in)

    def _read_again(self) -> None:
        """Take what another run has written to the file meanwhile."""
        try:
            found = read_results(self.path)
        except (FileNotFoundError, ValueError):  # not there yet, or spoilt: it is written anew
            return
        if self._other(found) is None:
            self._results = found

    def _put(
        self, group: str, problem: str, config: Any, rows: Iterable[Mapping[str, Any]], measured_in: Mapping[str, Any]
    ) -> None:
        place = next((i for i, row in enumerate(self.rows) if group_of(row) == group), len(self.rows))
        kept = [row for row in self.rows if group_of(row) != group]
        known = self._results.setdefault("environments", {})
        known[group] = measured_in
        if all(group_of(row) in known for row in kept):  # a note is of groups that have no environment of their own
            self._results.pop("note", None)
        self._results["rows"] = kept[:place] + [{"group": group, **row} for row in rows] + kept[place:]
        self._results["problems"][problem] = config
        write_results(self.path, self._results)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Generator[None]:
    """Other runs wait meanwhile that write into the folder, where the system can tell them."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # not there, as on Windows
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
