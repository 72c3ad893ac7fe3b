"""A real PostgreSQL for tests: one server on a Unix socket, a fresh database a test.

Owns starting and stopping it. Needs Debian's package `postgresql`; as root it runs as the user that the package made,
since the server refuses root.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

_START_S = 60.0
_USER = "postgres"


def programs() -> Path | None:
    """Returns the folder of the newest server that is installed, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


class Postgres:
    """One server.

    Args:
        home: an empty folder with a short path (the socket lies in it; its path is limited to 107 bytes).
        bin_dir: of initdb and postgres.
        durable: wait for the disk at each commit, as in production.
    """

    def __init__(self, home: Path, bin_dir: Path, *, durable: bool = False) -> None:
        self._home, self._bin, self._durable = home, bin_dir, durable
        self._as_user: dict[str, str] = {"user": _USER, "group": _USER} if os.geteuid() == 0 else {}
        self._name = _USER if self._as_user else pwd.getpwuid(os.geteuid()).pw_name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server, or starts it again on the same data. Raises RuntimeError with the log's end."""
        data = self._home / "data"
        if not data.exists():
            if self._as_user:
                shutil.chown(self._home, _USER, _USER)
            initdb = [str(self._bin / "initdb"), "-D", str(data), "-U", self._name, "-A", "trust", "--no-sync"]
            done = subprocess.run(initdb, capture_output=True, cwd=self._home, **self._as_user, check=False)
            if done.returncode:
                raise RuntimeError(f"initdb failed: {done.stderr.decode(errors='replace')[-2000:]}")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._home),
            "fsync": "on" if self._durable else "off",
        }
        command = [str(self._bin / "postgres"), "-D", str(data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._home, stdout=log, stderr=log, **self._as_user)
        deadline = time.monotonic() + _START_S
        while self._psql("postgres", "select 1").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"postgres did not start: {(self._home / 'log').read_text()[-2000:]}")
            time.sleep(0.05)  # polls a process that offers nothing to wait on

    def stop(self) -> None:
        """Ends it as a crash of the network would look: every connection is cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def database(self) -> str:
        """Makes an empty database and returns its URL."""
        name = f"t{secrets.token_hex(6)}"
        done = self._psql("postgres", f"create database {name}")
        assert done.returncode == 0, done.stderr
        return f"postgresql://{self._name}@/{name}?host={self._home}"

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[bytes]:
        command = ["psql", "-X", "-h", str(self._home), "-U", self._name, "-d", database, "-c", statement]
        return subprocess.run([str(self._bin / command[0]), *command[1:]], capture_output=True, cwd="/", check=False)
