"""The console beside the services of a home: started with them, started again when it dies, ended with them.

Owns that one process. A console that cannot run is said and lets the services be: nobody is served by it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from graftwork.local.home import Home, ServiceName

PAUSES_S = (1, 4, 16, 60)
"""Seconds before the first, second, ... restart; the last one repeats."""
_STABLE_S = 60.0
_STOP_S = 10.0
NO_CONSOLE = -1
"""The port that means: without a console."""


def environment(home: Home, port: int, tls_ca: str | None) -> dict[str, str]:
    """Returns the console's own settings: the services of the home, on this machine only unless GRAFT_CONSOLE_* says more."""
    return {
        "GRAFT_CONSOLE_TRAINER_ADDRESS_FILE": str(home.address_file(ServiceName.TRAINER)),
        "GRAFT_CONSOLE_SERVING_ADDRESS_FILE": str(home.address_file(ServiceName.SERVING)),
        "GRAFT_CONSOLE_ADDRESS_FILE": str(home.console_address_file),
        "GRAFT_CONSOLE_PORT": str(port),
        **({"GRAFT_CONSOLE_TLS_CA": tls_ca} if tls_ca else {}),
    }


@dataclass(slots=True)
class ConsoleProcess:
    """The console of one home.

    Args:
        home: where its address and its log lie.
        port: 0 takes any free port.
        report: takes one line for people.
        last_words: says what a log's end says.
        before_exec: runs in the child, between fork and exec.
    """

    home: Home
    port: int
    report: Callable[[str], None]
    last_words: Callable[[], str]
    before_exec: Callable[[], None]
    _process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _failures: int = 0
    _restart_at: float = field(default=0.0)

    def poll(self) -> None:
        """Starts it, or starts it again once its pause is over."""
        if self.port == NO_CONSOLE:
            return
        now = time.monotonic()
        if self._process is None:
            if now >= self._restart_at:
                self._start()
        elif (status := self._process.poll()) is not None:
            self._failures = 1 if now - self._started > _STABLE_S else self._failures + 1
            pause = PAUSES_S[min(self._failures, len(PAUSES_S)) - 1]
            self._process, self._restart_at = None, now + pause
            self.report(f"the console ended with {self._ending(status)}; starting it again in {pause} s")

    def end(self) -> None:
        """Ends it; its live pages reconnect to the next one."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self.home.console_address_file.unlink(missing_ok=True)

    def _start(self) -> None:
        self.home.console_address_file.unlink(missing_ok=True)
        with self.home.console_log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "graftwork.console"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.before_exec,
            )
        self._started = time.monotonic()
        self.report(f"console started (pid {self._process.pid}), log {self.home.console_log_file}")

    def _ending(self, status: int) -> str:
        """A process that was killed said nothing of it."""
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}: {self.last_words()}"

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, **environment(self.home, self.port, os.environ.get("GRAFT_TLS_CA"))}
