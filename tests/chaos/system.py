"""The system under test: `graft up` and what it runs, as an operator's init would keep it.

Owns starting, finding and ending processes. A `graft up` that ends is started again, as systemd would, and counted.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from graftwork.client import Client
from graftwork.client.channel import Channel
from graftwork.local.home import Home, ServiceName

_POLL_S = 0.1
SERVICES = {"trainer": "trainer_service", "serving": "serving_service"}


def until(what: str, holds: Callable[[], Any], seconds: float) -> Any:
    """Polls until `holds` returns something true, and returns that.

    Raises:
        TimeoutError: not within so many seconds; the message has `what`.
    """
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        pause.wait(_POLL_S)
    return found


@dataclass
class System:
    """One home and the processes that work on it.

    Args:
        home: the home folder.
        options: of `graft up`.
        environment: of the processes, beside ours without its GRAFT_ variables.
    """

    home: Home
    options: tuple[str, ...]
    environment: Mapping[str, str]
    starts: int = 0
    _up: subprocess.Popen[bytes] | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def start(self) -> None:
        """Starts `graft up`, and again whenever it ends before `stop`."""
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop(self) -> int:
        """Ends everything as `graft down` does; returns the exit status of `graft up`."""
        self._stopped.set()
        assert self._keeper is not None
        down = self.graft("down", timeout=150)
        self._keeper.join(90)
        return self._up.wait(1) if self._up and not down.returncode else down.returncode or 1

    def kill(self) -> None:
        """Leaves nothing running, whatever happened."""
        self._stopped.set()
        for process in self.processes():
            process.kill()

    def graft(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a `graft` command on this home."""
        return subprocess.run(
            self._command(*arguments), capture_output=True, text=True, env=self._clean_environment(), timeout=timeout
        )

    def client(self, key: str) -> Client:
        """The SDK, at wherever the services listen now; nobody answers at port 1."""
        addresses = [self.home.address(service) or "127.0.0.1:1" for service in ServiceName]
        return Client(addresses[0], addresses[1], key)

    def is_ready(self, service: str) -> bool:
        """Tells whether a service is up and says that it serves."""
        address = self.home.address(ServiceName(service))
        if address is None:
            return False
        channel = Channel(address, None)
        try:
            return channel.is_serving()
        finally:
            channel.close()

    def all_ready(self) -> bool:
        return all(self.is_ready(service) for service in SERVICES)

    def up(self) -> psutil.Process | None:
        """The `graft up` process, if it lives."""
        return psutil.Process(self._up.pid) if self._up and self._up.poll() is None else None

    def service(self, name: str) -> psutil.Process | None:
        """A service's main process, if it lives."""
        up = self.up()
        return _first(up, SERVICES[name]) if up else None

    def workers(self) -> list[psutil.Process]:
        """Processes that train."""
        trainer = self.service("trainer")
        return _children(trainer, "trainer_service") if trainer else []

    def engines(self) -> list[psutil.Process]:
        """The serving service's own children: vLLM's engine, and what it starts."""
        serving = self.service("serving")
        try:
            return serving.children() if serving else []
        except psutil.NoSuchProcess:
            return []

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this home, wherever it hangs in the tree of processes."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("CHAOS_HOME") == str(self.home.root):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def _keep(self) -> None:
        while not self._stopped.is_set():
            self.starts += 1
            with (self.home.root.parent / "up.log").open("ab") as log:
                self._up = subprocess.Popen(
                    self._command("up", *self.options),
                    env=self._clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._up.wait()
            self._stopped.wait(1.0)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "graftwork.cli.main", "--home", str(self.home.root), *arguments]

    def _clean_environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
        return {**ours, "CHAOS_HOME": str(self.home.root), **self.environment}


def _children(parent: psutil.Process, word: str) -> list[psutil.Process]:
    found = []
    try:
        for child in parent.children():
            try:
                if any(word in part for part in child.cmdline()):
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
    except psutil.NoSuchProcess:
        return []
    return found


def _first(parent: psutil.Process, word: str) -> psutil.Process | None:
    return next(iter(_children(parent, word)), None)


def log_tail(folder: Path) -> str:
    """The ends of all logs in a folder, for a report."""
    return "\n".join(
        f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.glob("*.log"))
    )
