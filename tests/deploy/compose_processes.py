"""The compose file's services as processes of this machine: its commands, settings, files and health checks, without containers.

Owns the exchange of what only containers have: names of other services become loopback ports, volumes and secrets become folders
and files, the S3 server and PostgreSQL are the tests' own. All else is the file's.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.places import ROOT

ENTRYPOINT = ROOT / "deploy/docker/entrypoint.sh"
HEALTHCHECK = ROOT / "deploy/docker/healthcheck.py"


def free_port() -> int:
    """Below the range of outgoing connections, so that none takes it before its service does."""
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ComposeProcesses:
    """Runs a resolved compose file's own services.

    Args:
        project: as Docker Compose resolves it.
        home: for volumes and logs.
        exchange: texts of the file and what stands for them here, such as `s3:8333`.
    """

    def __init__(self, project: dict[str, Any], home: Path, exchange: dict[str, str]) -> None:
        self._services, self._home = project["services"], home
        ports = {}
        for name, own in (("trainer", ("50051", "9464")), ("serving", ("50052", "8000")), ("console", ("8080",))):
            for port in own:
                ports[port] = str(free_port())
                exchange = exchange | {f"{name}:{port}": f"127.0.0.1:{ports[port]}"}
        files = {f"/run/secrets/{name}": secret["file"] for name, secret in project["secrets"].items()}
        self._exchange = {**exchange, **{name: file for name, file in files.items() if name not in exchange}}
        self._ports = ports

    def port(self, name: str) -> int:
        """The one that stands for a port of the file."""
        return int(self._ports[name])

    def environment(self, service: str) -> dict[str, str]:
        """A service's settings, with this machine's places in them, and nothing of the test's own."""
        told = {
            name: self._here(service, value) for name, value in self._services[service].get("environment", {}).items()
        }
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self._home),
            "PYTHONPATH": str(ROOT),
        }
        return own | told

    def _here(self, service: str, value: str) -> str:
        if value in self._ports:
            return self._ports[value]
        for text, stands_for in self._exchange.items():
            value = value.replace(text, stands_for)
        value = value.replace("/var/lib/graftwork", str(self._home / service))
        return re.sub(r"^0\.0\.0\.0$", "127.0.0.1", value)

    def run_once(self, service: str) -> subprocess.CompletedProcess[str]:
        """Runs a service that ends, by the image's entry point."""
        command = [self._here(service, word) for word in self._services[service]["command"]]
        return subprocess.run(
            [ENTRYPOINT, *command],
            env=self.environment(service),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def running(self, service: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Runs a service until the block ends, then ends it as a container is ended."""
        with (self._home / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                [ENTRYPOINT, *self._services[service]["command"]],
                env=self.environment(service),
                cwd=self._home,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()

    def health(self, service: str) -> tuple[int, str]:
        """What the image's health check says inside that service's container."""
        done = subprocess.run(
            [sys.executable, HEALTHCHECK], env=self.environment(service), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    def log(self, service: str) -> str:
        return (self._home / f"{service}.log").read_text(errors="replace")[-4000:]

    def graft(self, *words: str, key: str) -> subprocess.CompletedProcess[str]:
        """Runs `graft` as in the serving service's container."""
        environment = self.environment("serving") | {"GRAFT_API_KEY": key, "GRAFT_HOME": str(self._home / "graft")}
        return subprocess.run(
            [sys.executable, "-m", "graftwork.cli.main", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
