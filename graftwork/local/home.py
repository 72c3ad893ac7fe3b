"""The home folder: all state of a local Graftwork under one path, and how commands find running services there.

Owns the layout. Does not own processes (`graftwork.local.fleet`).
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from graftwork.operator_keys import first_plain, new_key


class ServiceName(StrEnum):
    """The two services."""

    TRAINER = "trainer"
    SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home folder.

    Attributes:
        root: the folder itself; `--home` or GRAFT_HOME.
    """

    root: Path

    @classmethod
    def open(cls, root: Path | None = None) -> "Home":
        """Returns the home at `root`, else at GRAFT_HOME, else `~/.graftwork`. Creates nothing."""
        chosen = root or Path(os.environ.get("GRAFT_HOME") or "~/.graftwork")
        return cls(chosen.expanduser().resolve())

    @property
    def operator_key_file(self) -> Path:
        return self.root / "operator.key"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def store_url(self) -> str:
        """Of the store that services use when no other is named."""
        return self.store.as_uri()

    @property
    def run(self) -> Path:
        """Locks, pids and addresses of what runs now."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def state(self, service: ServiceName) -> Path:
        return self.root / service.value

    def lock_file(self, service: ServiceName) -> Path:
        """Held by a service for its whole life."""
        return self.state(service) / ("lock" if service is ServiceName.TRAINER else "cache/lock")

    def address_file(self, service: ServiceName) -> Path:
        return self.run / f"{service.value}.address"

    @property
    def http_address_file(self) -> Path:
        """Of the serving service's OpenAI-compatible API."""
        return self.run / "serving.http.address"

    @property
    def console_address_file(self) -> Path:
        return self.run / "console.address"

    @property
    def console_log_file(self) -> Path:
        return self.logs / "console.log"

    def log_file(self, service: ServiceName) -> Path:
        return self.logs / f"{service.value}.log"

    def address(self, service: ServiceName) -> str | None:
        """Returns `host:port` that the service wrote, or None when it has not bound a port."""
        return _address(self.address_file(service))

    def http_address(self) -> str | None:
        """Like `address`, of the serving service's OpenAI-compatible API."""
        return _address(self.http_address_file)

    def console_address(self) -> str | None:
        """Like `address`, of the console."""
        return _address(self.console_address_file)

    def operator_key(self) -> str | None:
        """Returns the operator's key, or None before the first `graft up`."""
        try:
            return first_plain(self.operator_key_file.read_text())
        except FileNotFoundError:
            return None

    def prepare(self) -> None:
        """Makes the folders and, once, the operator's key (readable by its owner only)."""
        for folder in (self.root, self.store, self.run, self.logs, *map(self.state, ServiceName)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.operator_key_file.exists():
            return
        # Written whole, then linked: a process killed in between must not leave a home with an empty key, and of two
        # at once one key stays.
        partial = self.root / f".operator.key.{secrets.token_hex(8)}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{new_key()}\n")
        with suppress(FileExistsError):
            os.link(partial, self.operator_key_file)
        partial.unlink()


def _address(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
