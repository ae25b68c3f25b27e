"""The wish of a scheduler that a run ends soon (SIGTERM), as a step at which all processes stop."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Turns SIGTERM into a step to stop at, the same in every process; use as a context manager around a loop of steps.

    With several processes JAX's preemption service, which catches the signal of any of them, has them agree in the
    background on the next step that none has begun. That costs no work on the devices and no wait, where a flag of our
    own would take an all-reduce and a look at its result, which ends the dispatch of steps ahead of the devices. A
    single process takes the signal itself, and gives the old handler back.
    """

    def __init__(self) -> None:
        self._received = False
        self._previous: Any = None

    def __enter__(self) -> "StopSignal":
        if not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self, step: int) -> bool:
        """Whether to stop before a step; to be asked before each one.

        Args:
            step: the next one, as every process counts them.

        Returns:
            True at the step agreed on.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
