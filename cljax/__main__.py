"""The ``cljax`` command; ``python -m cljax`` is the same."""

from cljax._compile_cache import keep_programs
from cljax._cpu_threads import enough_threads


def command() -> int:
    """Run the command of this process, its compiled programs kept for the next one."""
    keep_programs()
    enough_threads()
    from cljax.cli import main  # only now: JAX reads its settings when it is imported

    return main()


if __name__ == "__main__":
    raise SystemExit(command())
