"""The ``cljax`` command; ``python -m cljax`` is the same."""

from cljax._compile_cache import keep_programs
from cljax.cli import main


def command() -> int:
    """Run the command of this process, its compiled programs kept for the next one."""
    keep_programs()
    return main()


if __name__ == "__main__":
    raise SystemExit(command())
