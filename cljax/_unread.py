"""Output that nobody reads any more, as of a command before ``head``: nothing is wrong, and nothing more is written."""

import os
import select
import sys

from rich import console

NOT_READ = 141
"""Exit code where the reader of the output is gone: 128 + 13, as a shell has it."""


class Console(console.Console):
    """A console that leaves a broken pipe to its command."""

    def on_broken_pipe(self) -> None:
        """Raise the error, where the one of Rich ends the process with 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError


def reader_is_gone(error: BaseException) -> bool:
    """Whether an error is that nobody reads what is printed; a broken pipe may be another one."""
    if not isinstance(error, BrokenPipeError):
        return False
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # a system without poll, or output that is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def write_nowhere() -> int:
    """Write all that is still printed nowhere.

    Returns:
        The exit code for it.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOT_READ
