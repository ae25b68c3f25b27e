"""What is said of a process that ends without a word of its own.

When another process of a run is lost, JAX's runtime aborts this one: no handler of Python's runs then, and what the
runtime says names no remedy. A small process beside this one, which does nothing but wait for its end, says what it was
told last. That leaves signals and exit codes as they are.
"""

import atexit
import contextlib
import subprocess
import sys

_WAIT = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
words = ""
for line in sys.stdin:
    words = line.strip()
if words:
    print("cljax: error:", words, file=sys.stderr, flush=True)
"""
_watch: "subprocess.Popen[str] | None" = None


def start(words: str) -> None:
    """Start the process that waits. A regular end of this one says nothing.

    Args:
        words: see ``say``.
    """
    global _watch
    if _watch is None:
        _watch = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WAIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        atexit.register(say, "")
    say(words)


def say(words: str) -> None:
    """What to say on standard error from now on, if this process ends; nothing happens without ``start``.

    Args:
        words: one line, or "" for nothing.
    """
    if _watch is not None and _watch.stdin is not None:
        with contextlib.suppress(OSError):  # it was killed: there is no one to say anything
            print(" ".join(words.split()), file=_watch.stdin, flush=True)
