"""A trainer in its own process, on a miniature backbone with random weights and a filesystem store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest

from adapter_store import AdapterStore, open_store
from graftwork.client import Client
from graftwork.v1 import common_pb2, trainer_pb2, trainer_pb2_grpc

OPERATOR_KEY = "gwop_" + "0" * 48
T = TypeVar("T")


def until(what: str, probe: Callable[[], T | None], seconds: float = 60) -> T:
    """Polls until `probe` answers; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        pause.wait(0.02)
    pytest.fail(f"{what}: not within {seconds} s")


def rows(count: int = 40) -> bytes:
    """A task that random weights can learn something of: the answer is always of the same few letters."""
    lines = [{"instruction": "count", "input": f"n:{at}", "response": "one two " * (at % 3 + 1)} for at in range(count)]
    return "\n".join(map(json.dumps, lines)).encode()


class Caller:
    """A stub with one key on every call."""

    def __init__(self, trainer: "TrainerProcess", key: str, tenant: str) -> None:
        self.parent = f"tenants/{tenant}"
        self._trainer, self._metadata = trainer, (("authorization", f"Bearer {key}"),)

    def call(self, method: str, request: Any) -> Any:
        stub = trainer_pb2_grpc.TrainerServiceStub(self._trainer.channel)
        return getattr(stub, method)(request, metadata=self._metadata, timeout=240)

    def upload(self, data: bytes, *, parent: str = "") -> Any:
        header = trainer_pb2.UploadDatasetHeader(
            parent=parent or self.parent, display_name="rows", format=common_pb2.DATASET_FORMAT_JSONL
        )
        chunks = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        parts = [trainer_pb2.UploadDatasetRequest(header=header)]
        parts += [trainer_pb2.UploadDatasetRequest(chunk=chunk) for chunk in chunks]
        return self.call("UploadDataset", iter(parts))

    def create(
        self, dataset: str, *, adapter: str = "counter", key: str = "", anyway: bool = False, **recipe: Any
    ) -> Any:
        asked = {"learning_rate": 1e-2, "epochs": 4, "batch_rows": 8, "dropout": 0.1} | recipe
        return self.call(
            "CreateJob",
            trainer_pb2.CreateJobRequest(
                parent=self.parent,
                dataset=dataset,
                adapter_id=adapter,
                recipe=trainer_pb2.Recipe(**asked),
                idempotency_key=key,
                publish_anyway=anyway,
            ),
        )

    def get(self, name: str) -> Any:
        return self.call("GetJob", trainer_pb2.GetJobRequest(name=name))

    def watch(self, name: str, after: int = 0) -> Iterator[Any]:
        return self.call("WatchJob", trainer_pb2.WatchJobRequest(name=name, after=after))

    def client(self) -> Client:
        """The SDK with the same key."""
        address = self._trainer.address
        return Client(address, address, dict(self._metadata)["authorization"].removeprefix("Bearer "))

    def resume(self, name: str) -> Any:
        return self.call("ResumeJob", trainer_pb2.ResumeJobRequest(name=name))

    def cancel(self, name: str) -> Any:
        return self.call("CancelJob", trainer_pb2.CancelJobRequest(name=name))


class TrainerProcess:
    """`python -m trainer_service` on one state folder; may be killed and started again."""

    def __init__(self, home: Path, backbone: Path, **settings: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.backbone = home, backbone
        self.url = f"file://{home / 'store'}"
        self.store: AdapterStore = open_store(self.url)
        key_file = home / "operator.key"
        key_file.write_text(OPERATOR_KEY)
        self._address = home / "address"
        self.state = home / "state"
        self._environment = os.environ | {
            "GRAFT_STORE_URL": self.url,
            "GRAFT_BACKBONE": str(backbone),
            "GRAFT_OPERATOR_KEY_FILE": str(key_file),
            "GRAFT_TRAINER_STATE_DIR": str(self.state),
            "GRAFT_TRAINER_ADDRESS_FILE": str(self._address),
            "GRAFT_TRAINER_BACKOFF_SECONDS": "0.1",
            "GRAFT_TRAINER_THREADS": "1",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.channel: grpc.Channel = None  # type: ignore[assignment]

    def start(self) -> "TrainerProcess":
        self._address.unlink(missing_ok=True)
        with (self.home / "service.log").open("ab") as log:
            command = [sys.executable, "-m", "trainer_service"]
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        until("the service listens", lambda: self._address.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.home / "service.log").read_text()
        self.address = self._address.read_text().strip()
        self.channel = grpc.insecure_channel(self.address)
        return self

    def __enter__(self) -> "TrainerProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signals the service and returns its exit status."""
        assert self.process is not None
        if self.channel is not None:
            self.channel.close()
        self.process.send_signal(number)
        return self.process.wait(60)

    def tenant(self, name: str) -> Caller:
        self.store.tenants.create(name)
        return Caller(self, self.store.tenants.issue_key(name, "test").secret, name)

    def operator(self) -> Caller:
        return Caller(self, OPERATOR_KEY, "-")

    def worker(self) -> psutil.Process:
        """Waits for the worker process of the running job."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return until("a worker runs", lambda: next(iter(parent.children()), None))
