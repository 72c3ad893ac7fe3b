"""A registry as a real process (`python -m adapter_store`), and the real command against it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from graftwork.client import Client
from tests.store_samples import make_base

OPERATOR = "gwop_operator"


class RegistryProcess:
    """Runs until `stop`; the backbone and the state lie in `root`, and the store too unless it is named.

    `environment` are further settings.
    """

    def __init__(
        self, root: Path, backbone: Path | None = None, store_url: str | None = None, **environment: str
    ) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.backbone = backbone or make_base(root / "backbone")
        self.key_file = root / "operator.key"
        self.key_file.write_text(f"{OPERATOR}\n")
        self.store_url = store_url or f"file://{root}/store"
        address = root / "address"
        address.unlink(missing_ok=True)  # of an earlier process on this root
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
        self.log = root / "registry.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adapter_store"],
                env=clean
                | {
                    "GRAFT_STORE_URL": self.store_url,
                    "GRAFT_BACKBONE": str(self.backbone),
                    "GRAFT_OPERATOR_KEY_FILE": str(self.key_file),
                    "GRAFT_REGISTRY_STATE_DIR": str(root / "state"),
                    "GRAFT_REGISTRY_ADDRESS_FILE": str(address),
                }
                | environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not address.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the registry did not start:\n{self.log.read_text()}")
            time.sleep(0.02)  # polls an outside process; nothing else tells
        self.address = address.read_text().strip()

    @property
    def staging(self) -> Path:
        return self.root / "state/staging"

    def stop(self) -> int:
        """Ends the process as a supervisor would; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def client(self, key: str = OPERATOR) -> Client:
        """The SDK on this registry."""
        return Client(self.address, "127.0.0.1:1", key)

    def graft(self, *arguments: str, key: str = OPERATOR) -> subprocess.CompletedProcess[str]:
        """Runs the command against this registry."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
        return subprocess.run(
            [sys.executable, "-m", "graftwork.cli.main", "--home", str(self.root / "nowhere"), *arguments],
            capture_output=True,
            text=True,
            env=clean | {"GRAFT_TRAINER": self.address, "GRAFT_API_KEY": key},
            timeout=60,
        )
