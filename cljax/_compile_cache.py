"""Compiled programs of commands, kept on disk so that the next command starts at once."""

import os
import pathlib


def keep_programs() -> None:
    """Have JAX keep compiled programs in the user's cache folder; for a command, before it imports JAX.

    The folder is ``cljax`` in ``XDG_CACHE_HOME``, ``~/.cache`` where that is not set. JAX's own settings go first:
    ``JAX_COMPILATION_CACHE_DIR`` names another folder, ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(home, "cljax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a command has many small programs
