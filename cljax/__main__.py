"""``python -m cljax``, the same as the ``cljax`` command."""

from cljax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
