"""Runs the trainer and the serving service as subprocesses (and the console, `console_process.py`), restarts what dies, and
ends both cleanly.

Owns processes. Does not own their environment (`environment.py`). A service that dies is started again with a growing pause;
one that fails before it was ever ready is not, because a wrong port or a broken backbone does not mend itself.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from graftwork.client.channel import Channel, tls_ca, tls_identity
from graftwork.local.console_process import ConsoleProcess
from graftwork.local.environment import FleetSettings, environment, lock_file
from graftwork.local.errors import AlreadyRunning, StartFailed
from graftwork.local.home import Home, ServiceName

PAUSES_S = (0.5, 1, 2, 4, 8, 16, 30)
"""Seconds before the first, second, ... restart of a service; the last one repeats."""
STABLE_S = 60.0
"""A service that has run this long starts again at the shortest pause."""
STOP_S = 60.0
"""How long a service may take to end by itself after SIGTERM: requests in flight finish, a worker saves."""
_POLL_S = 0.1
_LOCK_TRIES = 4  # somebody who only asks whether we are up (`running_pid`) holds the lock for a moment
_LIBC = ctypes.CDLL(None)  # opened here: between fork and exec only async-signal-safe work is allowed

MODULES = {ServiceName.TRAINER: "trainer_service", ServiceName.SERVING: "serving_service"}


@dataclass(slots=True)
class _Service:
    name: ServiceName
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    was_ready: bool = False
    restart_at: float = 0.0
    next_check: float = 0.0


@dataclass(slots=True)
class Fleet:
    """Both services of one home, for as long as `run` lasts.

    Args:
        home: where everything lies.
        settings: what to start.
        report: takes one line for people, whenever something happens.
        on_poll: called several times a second while both run.
    """

    home: Home
    settings: FleetSettings
    report: Callable[[str], None]
    on_poll: Callable[[], None] = lambda: None
    _services: list[_Service] = field(default_factory=lambda: [_Service(name) for name in ServiceName])
    _console: ConsoleProcess = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: IO[str] | None = None

    def __post_init__(self) -> None:
        self._console = ConsoleProcess(
            self.home,
            self.settings.console_port,
            lambda line: self.report(line),
            lambda: last_line(self.home.console_log_file),
            _die_with_parent,
        )

    def run(self) -> None:
        """Starts both, keeps them alive, and returns after `stop` once both have ended.

        Raises:
            AlreadyRunning: another process runs this home.
            StartFailed: a service ended before it was ready; the other one has been stopped.
        """
        self.home.prepare()
        self._take_lock()
        try:
            self._outwait_predecessors()
            for service in self._services:
                if not self._stop.is_set():
                    self._start(service)
            if not self._stop.is_set():
                self.report("the serving service loads the backbone; a small one takes 15 to 40 s")
            while not self._stop.wait(_POLL_S):
                for service in self._services:
                    self._look_after(service)
                self._console.poll()
                self.on_poll()
        finally:
            self._end()

    def stop(self, *_: int | FrameType | None) -> None:
        """Asks `run` to end; also serves as a signal handler."""
        self._stop.set()

    def _take_lock(self) -> None:
        # Held for the process's life; the kernel drops it however we die, so a stale file never blocks a start.
        self._lock = (self.home.run / "up.lock").open("a+")
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < _LOCK_TRIES:
                    time.sleep(_POLL_S)
        else:
            raise AlreadyRunning(f"graft is already up for {self.home.root}: use it, or stop it with `graft down`")
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _outwait_predecessors(self) -> None:
        """Services whose `graft up` was killed need seconds to end; ours would be refused beside them."""
        deadline = time.monotonic() + STOP_S
        told = False
        while any(_is_held(lock_file(self.home, self.settings, name)) for name in ServiceName):
            if not told:
                self.report("the services of an earlier `graft up` are still ending; waiting for them")
                told = True
            # After the deadline the service itself says who holds its folder.
            if time.monotonic() > deadline or self._stop.wait(_POLL_S):
                return

    def _start(self, service: _Service) -> None:
        forget_address(self.home, service.name)
        with self.home.log_file(service.name).open("ab") as log:
            service.process = subprocess.Popen(
                [sys.executable, "-m", MODULES[service.name]],
                env=environment(self.home, self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to us; we end the services in order
                preexec_fn=_die_with_parent,
            )
        service.started = time.monotonic()
        self.report(f"{service.name.value} started (pid {service.process.pid}), log {self.home.log_file(service.name)}")

    def _look_after(self, service: _Service) -> None:
        now = time.monotonic()
        if service.process is None:
            if now >= service.restart_at:
                self._start(service)
            return
        if not service.was_ready and now >= service.next_check:
            service.was_ready, service.next_check = self._is_ready(service), now + 1.0
        status = service.process.poll()
        if status is None:
            return
        ending = f"{service.name.value} ended with {_describe(status)}"
        if not service.was_ready:
            raise StartFailed(f"{ending} before it was ready: {last_line(self.home.log_file(service.name))}")
        service.failures = 1 if now - service.started > STABLE_S else service.failures + 1
        pause = PAUSES_S[min(service.failures, len(PAUSES_S)) - 1]
        service.process, service.restart_at = None, now + pause
        self.report(f"{ending}; starting it again in {pause:g} s")

    def _is_ready(self, service: _Service) -> bool:
        address = self.home.address(service.name)
        if address is None:
            return False
        channel = Channel(address, None, tls_ca(), tls_identity())
        try:
            return channel.is_serving(timeout=1.0)
        finally:
            channel.close()

    def _end(self) -> None:
        self._console.end()
        running = [service.process for service in self._services if service.process and service.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.report(f"pid {process.pid} did not end within {STOP_S:g} s; killing it")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for service in self._services:
            forget_address(self.home, service.name)
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()


def forget_address(home: Home, service: ServiceName) -> None:
    """Removes what says where a service listens; the one that wrote it has ended or is about to."""
    home.address_file(service).unlink(missing_ok=True)
    if service is ServiceName.SERVING:
        home.http_address_file.unlink(missing_ok=True)


def _is_held(lock_file: Path) -> bool:
    try:
        with lock_file.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def running_pid(home: Home) -> int | None:
    """Returns the pid of the `graft up` that runs this home, or None."""
    try:
        with (home.run / "up.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0) or None
    except FileNotFoundError:
        pass
    return None


def wait_until_down(home: Home) -> None:
    """Waits until no `graft up` runs this home."""
    with (home.run / "up.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given to us the moment that the other process ends


def last_line(log: Path) -> str:
    """Returns the last line of a log that says something, for a message to somebody who has not opened it."""
    words = last_words(log)
    return f"{words} (whole log: {log})" if words else f"its log {log} is empty"


def last_words(log: Path) -> str:
    """Returns what a log's last line says: its own text, or the cause in an entry of a structured log."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    line = lines[-1] if lines else ""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict):
            line = str(entry.get("cause") or entry.get("reason") or entry.get("event") or line)
    return line[:500]


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _die_with_parent() -> None:
    """Linux: the child gets SIGTERM when we die, even by SIGKILL, so that no service outlives its `graft up`."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
