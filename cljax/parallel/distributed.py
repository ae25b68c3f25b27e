"""Many processes as one program: how they start, agree, and notice that one of them was lost.

The engine is JAX's own (``jax.distributed``; between CPUs its collectives are Gloo's, its default): every process runs
the same program on arrays that span all devices. What only one process may do, such as writing a file, process 0 does,
and tells the others what came of it.
"""

import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cljax._checks import check_positive_int
from cljax.parallel import last_words

_LOST = re.compile(
    r"gloo|nccl|heartbeat|coordination service|UNAVAILABLE|socket closed|connection (reset|closed)", re.I
)
LOST = 75
"""Exit code after another process was lost: EX_TEMPFAIL, what failed may work later."""
_LINGER = 3
_PATIENCE = 5
_GRACE = 60


class LostProcessError(RuntimeError):
    """Another process of a run was lost, so that this one cannot go on."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """How a process finds the others of its run; each is started with the same command.

    Attributes:
        distributed: this is one of several processes that JAX finds by itself (TPU, GKE, SLURM, Open MPI).
        coordinator: HOST:PORT of process 0, where nothing is found; on HOST that port must be free.
        num_processes: how many processes there are, with --coordinator.
        process_id: which of them this one is, from 0, with --coordinator.
        initialization_timeout: seconds to wait at the start until all are there; then a process ends with one line and
            exit code 75.
        heartbeat_timeout: seconds of silence after which a process counts as lost and the runtime aborts the others.
            One that was killed is noticed at once, by its closed connections.
    """

    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    initialization_timeout: int = 300
    heartbeat_timeout: int = 100

    def __post_init__(self) -> None:
        """Check what can be checked alone.

        Raises:
            ValueError: if flags are missing or out of range.
        """
        check_positive_int("initialization_timeout", self.initialization_timeout)
        check_positive_int("heartbeat_timeout", self.heartbeat_timeout)
        given = (self.coordinator, self.num_processes, self.process_id)
        if all(value is None for value in given):
            return
        if None in given:
            raise ValueError(
                "coordinator: expected --coordinator HOST:PORT, --num-processes and --process-id together, got "
                f"{given[0]}, {given[1]} and {given[2]}; with --distributed all three are found"
            )
        if not re.fullmatch(r".+:\d+", str(self.coordinator)):
            raise ValueError(f"coordinator: expected HOST:PORT, for example 10.0.0.1:1234, got {self.coordinator!r}")
        number = check_positive_int("num_processes", self.num_processes)
        if check_positive_int("process_id", self.process_id, 0) >= number:
            raise ValueError(f"process_id: expected 0 to {number - 1}, got {self.process_id}")


def initialize(processes: Processes) -> bool:
    """Join the other processes; before anything is computed. Without flags, or where it was done, nothing is done.

    Where not all come in time, this process ends with one line and exit code 75. If the runtime aborts it later because
    another one was lost, a line on standard error says so, after what the runtime says.

    Args:
        processes: how to find them.

    Returns:
        Whether this process is one of a cluster now; then ``jax.devices()`` are those of all.

    Raises:
        ValueError: if no cluster is found, the coordinator's port is taken, or something was computed already.

    Example:
        >>> from cljax import parallel
        >>> parallel.initialize(parallel.Processes())
        False
    """
    wanted = processes.distributed or processes.coordinator is not None
    if not wanted or jax.distributed.is_initialized():
        return jax.distributed.is_initialized()
    _check_port(processes)
    where = processes.coordinator or "the coordinator"
    timeout = processes.initialization_timeout
    last_words.start(f"processes: this one was ended while it waited for the others at {where}; start all of them anew")
    timers = [
        threading.Timer(_PATIENCE, _tell, [f"waiting for all processes at {where}, at most {timeout} s"]),
        threading.Timer(timeout, _give_up, [where, timeout]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.num_processes,
            processes.process_id,
            initialization_timeout=timeout + _GRACE,  # there the runtime aborts
            heartbeat_timeout_seconds=processes.heartbeat_timeout,
        )
        jax.devices()  # each waits here until all have told their devices
    except ValueError as error:
        raise ValueError(
            f"distributed: expected a cluster that JAX finds (TPU, GKE, SLURM, Open MPI), got none ({error}); "
            "give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"processes: expected all of them at {where}, got: {error}") from error
    finally:
        for timer in timers:
            timer.cancel()
        last_words.say("")
    expect_loss("start all of them anew")
    return True


def expect_loss(remedy: str) -> None:
    """What to say if the runtime ends this process; nothing is done with one process.

    Args:
        remedy: what to do then.
    """
    where = f"process {jax.process_index()} of {jax.process_count()}"
    last_words.say(f"{where}: killed, or ended by the runtime because another process was lost; {remedy}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _give_up(where: str, timeout: int) -> None:
    """End this process, whose main thread waits in the runtime."""
    _tell(
        f"cljax: error: processes: expected all of them at {where} within {timeout} s; see that each was started and "
        "reaches it, or give more --initialization-timeout"
    )
    last_words.say("")
    os._exit(LOST)


def _check_port(processes: Processes) -> None:
    """The runtime crashes where it finds its port taken."""
    if processes.coordinator is None or processes.process_id != 0:
        return
    try:
        socket.create_server(("", int(processes.coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"coordinator: expected a free port on this host, got {processes.coordinator}: {error}"
        ) from error


def is_writer() -> bool:
    """Whether this process writes the files of a run.

    Returns:
        True for process 0.

    Example:
        >>> from cljax import parallel
        >>> parallel.is_writer()
        True
    """
    return jax.process_index() == 0


def on_writer(function: Callable[[], Any]) -> Any:
    """Call a function on process 0 only, and give every process what came of it; all must call.

    Args:
        function: returns what JSON can hold, and may raise.

    Returns:
        What it returned. Where it raised, process 0 raises the same.

    Raises:
        ValueError: on the other processes, if it raised on process 0.

    Example:
        >>> from cljax import parallel
        >>> parallel.on_writer(lambda: [1, 2])
        [1, 2]
    """
    if jax.process_count() == 1:
        return function()
    message, failure = b"", None
    if is_writer():
        try:
            message = json.dumps({"value": function()}).encode()
        except Exception as error:  # the others must hear of whatever it is
            failure = error
            message = json.dumps({"error": str(error) or type(error).__name__}).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(-(-length // 1024) * 1024, np.uint8)  # few sizes, each compiled once
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    told = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes()[:length])
    if failure is not None:
        raise failure
    if "error" in told:
        raise ValueError(told["error"])
    return told["value"]


def everywhere(condition: bool) -> bool:
    """Whether a condition holds in every process; all must call.

    Args:
        condition: here.

    Returns:
        The same in all.

    Example:
        >>> from cljax import parallel
        >>> parallel.everywhere(True)
        True
    """
    return bool(np.all(multihost_utils.process_allgather(np.array(condition))))


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of the runtime says that another process was lost, which a collective then tells.

    Args:
        error: what was raised; the runtime raises ValueErrors too.

    Returns:
        False with one process.

    Example:
        >>> from cljax import parallel
        >>> parallel.is_lost_process(ValueError("Connection closed by peer"))
        False
    """
    known = isinstance(error, (ValueError, jax.errors.JaxRuntimeError))
    return known and jax.distributed.is_initialized() and bool(_LOST.search(str(error)))


def leave(code: int) -> None:
    """End a process of several that failed, without the wait for the others that a regular end has.

    They learn of it by their closed connections. Process 0 goes last, after three seconds: with it goes the service
    that ends all others, which would be cut off in what they say.

    Args:
        code: exit code.
    """
    last_words.say("")
    sys.stdout.flush()
    sys.stderr.flush()
    if is_writer():
        time.sleep(_LINGER)
    os._exit(code)
