"""The main of a job's own process: `python -m trainer_service.engine.worker SPEC.json EVENTS_FD`.

Owns the process: it dies with its parent or with its parent's lease, beats its heart from a thread, holds the job's
lock, and turns what went wrong into one message. Messages go over a pipe of their own, so nothing that a library
prints can break them; stdout and stderr belong to the job's log. The order of the work is `run`'s.
"""

import fcntl
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

from graftwork.errors import ErrorCode, GraftError
from trainer_service.core.states import FailureReason
from trainer_service.core.worker_messages import (
    GO_PUBLISH,
    LEASE,
    SETTLED,
    Ended,
    Failed,
    Heartbeat,
    Message,
    Postponed,
    ReadyToPublish,
    Settle,
    WorkerSpec,
)
from trainer_service.engine.parent_death import die_with_parent

# Of the store: these come out the same however often they are tried. Everything else is the machine's fault.
_USER_CODES = {ErrorCode.INVALID, ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN}


class Channel:
    """The pipe to the supervisor, and its answers on stdin."""

    def __init__(self, events_fd: int) -> None:
        """Takes over the write end of the events pipe and this process's stdin."""
        self._events = os.fdopen(events_fd, "wb", buffering=0)
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._settled = 0
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def send(self, message: Message) -> None:
        """Delivers a message; blocks when the supervisor is behind, ends the process when it is gone."""
        line = memoryview(message.model_dump_json().encode() + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[self._events.write(line) :]
            except BrokenPipeError:
                os._exit(1)

    def ask_to_publish(self) -> None:
        """Waits for the supervisor's word; a cancelled job never gets it and is ended by a signal instead."""
        self.send(ReadyToPublish())
        while self._answers.get() != GO_PUBLISH:
            pass

    def settle(self) -> None:
        """Waits until everything sent so far is in the job's history, whatever happens to either process."""
        self._settled += 1
        self.send(Settle(number=self._settled))
        while self._answers.get() != f"{SETTLED} {self._settled}":
            pass

    def beat(self, seconds: float) -> None:
        """Starts the heart."""

        def beats() -> None:
            pause = threading.Event()
            while True:
                self.send(Heartbeat())
                pause.wait(seconds)

        threading.Thread(target=beats, name="heartbeat", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == LEASE:
                end_at(float(value))
            else:
                self._answers.put(line.strip())
        # The supervisor is gone: whoever comes next starts this job anew, and two must not run.
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Runs one job; returns 0 when its end was reported, whatever the end was."""
    die_with_parent()
    spec = WorkerSpec.model_validate_json(Path(arguments[0]).read_bytes())
    if spec.lease_until is not None:
        end_at(spec.lease_until)
    channel = Channel(int(arguments[1]))
    channel.beat(spec.heartbeat_seconds)
    lock = _lock(spec.work_dir)
    try:
        from trainer_service.engine.run import run_job  # seconds of imports: the heart must beat by now

        end: Ended = run_job(spec, channel)
    except Exception as error:
        traceback.print_exc()
        end = _failure(error)
    finally:
        lock.close()
    channel.send(end)
    return 0


def _failure(error: Exception) -> Failed | Postponed:
    """Says whose fault it was. Text of unknown errors stays in the log: it may hold rows or paths."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, FailureReason):
        return Failed(reason=reason, message=str(error))
    if isinstance(error, GraftError) and error.code is ErrorCode.UNAVAILABLE:
        return Postponed(message=str(error))
    if isinstance(error, GraftError):
        user = error.code in _USER_CODES
        return Failed(reason=FailureReason.USER_ERROR if user else FailureReason.SYSTEM_ERROR, message=str(error))
    return Failed(
        reason=FailureReason.SYSTEM_ERROR,
        message=f"the worker met {type(error).__name__}; the job's log has the details",
    )


def end_at(moment: float) -> None:
    """Has the kernel end this process at a time of the monotonic clock, unless a later one is set before.

    By a signal, so that a step that holds the interpreter cannot outlive the lease: another service takes the job then.
    """
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, moment - time.monotonic()))


def _lock(work_dir: Path) -> IO[bytes]:
    """Waits until no other process works in the folder: one of a killed service may still be dying."""
    lock = (work_dir / "lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    sys.stderr.flush()
    # Everything is reported and on the disk; taking torch down in order costs a second of the next job's time.
    os._exit(exit_status)
