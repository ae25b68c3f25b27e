"""Compiled programs of commands, kept on disk so that the next command starts at once."""

import os
import pathlib

import jax


def keep_programs() -> None:
    """Have JAX keep compiled programs in the user's cache folder; for a process that a command has to itself.

    The folder is ``cljax`` in ``XDG_CACHE_HOME``, ``~/.cache`` where that is not set. JAX's own settings go first:
    ``JAX_COMPILATION_CACHE_DIR`` names another folder, ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home, "cljax")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a command has many small programs
