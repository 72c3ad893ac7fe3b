"""The sides: our service, `vllm serve` and the bare engine, each in processes of its own with the same arguments."""

import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.gateway.load import Figures, Load, measure
from benchmarks.gateway.senders import Send, over_grpc, over_http, over_socket
from graftwork.rpc.auth import OPERATOR_PREFIX
from serving_service.engine.vllm_launch import environment
from serving_service.settings import ServingSettings

READY_SECONDS = 600.0
_LIBC = ctypes.CDLL(None)


Ready = Callable[[], "list[Side]"]
"""Waits until a process answers. Apart from its start, so that they all start at once."""


class Side:
    """One side under load; this process makes the load, except inside the bare engine.

    Args:
        name: for tables.
        pid: of the process in front of the engine's, whose CPU time is counted.
        send: carries a request; None: `pipe` takes whole loads.
        pipe: the bare engine's process.
    """

    def __init__(
        self, name: str, pid: int, send: Send | None = None, pipe: "subprocess.Popen[str] | None" = None
    ) -> None:
        self.name, self._pid, self._send, self._pipe = name, pid, send, pipe

    async def run(self, load: Load) -> Figures:
        if self._send is not None:
            return await measure(load, self._send, self._pid)
        assert self._pipe is not None
        answer = await asyncio.to_thread(_ask, self._pipe, load.to_json())
        return Figures(**answer)


def _ask(pipe: "subprocess.Popen[str]", message: dict[str, Any]) -> dict[str, Any]:
    assert pipe.stdin is not None
    assert pipe.stdout is not None
    pipe.stdin.write(json.dumps(message) + "\n")
    pipe.stdin.flush()
    return dict(json.loads(pipe.stdout.readline()))


def settings_of(root: Path, backbone: Path) -> dict[str, str]:
    """The environment of our service; the engine's arguments come from it on every side."""
    key_file = root / "operator.key"
    key_file.write_text(OPERATOR_PREFIX + secrets.token_hex(24) + "\n")
    (root / "store").mkdir()
    return {
        "GRAFT_STORE_URL": (root / "store").as_uri(),
        "GRAFT_BACKBONE": str(backbone),
        "GRAFT_OPERATOR_KEY_FILE": str(key_file),
        "GRAFT_SERVING_CACHE_DIR": str(root / "cache"),
        "GRAFT_SERVING_ADDRESS_FILE": str(root / "address"),
        "GRAFT_SERVING_HTTP_ADDRESS_FILE": str(root / "http.address"),
        "GRAFT_SERVING_KV_CACHE_GIB": "0.5",
        "GRAFT_SERVING_MAX_LORA_RANK": "16",
        "GRAFT_SERVING_MAX_LORAS": "4",  # said here: what our service reckons where it is not, the bare engine cannot
    }


@contextmanager
def ours(root: Path) -> Iterator[Ready]:
    """Our service: gRPC and HTTP of one process."""

    def ready() -> list[Side]:
        address = root / "address"
        _wait("our service", process, root / "ours.log", lambda: address.exists() and _serving(address.read_text()))
        key = (root / "operator.key").read_text().strip()
        http = (root / "http.address").read_text().strip()
        return [
            Side("our gRPC", process.pid, over_grpc(address.read_text().strip(), key)),
            Side("our HTTP", process.pid, over_http(http, key, "")),
        ]

    with _process(root / "ours.log", "-m", "serving_service") as process:
        yield ready


@contextmanager
def theirs(root: Path, backbone: Path) -> Iterator[Ready]:
    """`vllm serve`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"

    def ready() -> list[Side]:
        _wait("vllm serve", process, root / "theirs.log", lambda: _answers(address))
        return [Side("vllm serve", process.pid, over_http(address, "none", str(backbone)))]

    with _process(root / "theirs.log", "-m", "benchmarks.gateway.theirs", str(backbone), str(port)) as process:
        yield ready


@contextmanager
def bare(root: Path, backbone: Path) -> Iterator[Ready]:
    """AsyncLLM and nothing else: behind a socket, and with the load inside its process."""
    path = str(root / "bare.socket")

    def ready() -> list[Side]:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"the bare engine did not start:\n{(root / 'bare.log').read_text()[-2000:]}")
        return [
            Side("bare engine", process.pid, over_socket(path)),
            Side("bare, no client", process.pid, pipe=process),
        ]

    arguments = ["-m", "benchmarks.gateway.bare", str(backbone), path]
    with _process(root / "bare.log", *arguments, piped=True) as process:
        yield ready


@contextmanager
def _process(log_file: Path, *arguments: str, piped: bool = False) -> "Iterator[subprocess.Popen[str]]":
    environment(ServingSettings())  # type: ignore[call-arg]  # what our service sets for itself, for all of them
    pipe: int | IO[bytes] = subprocess.PIPE if piped else subprocess.DEVNULL
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=pipe,
            stdout=pipe if piped else log,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: _LIBC.prctl(1, signal.SIGTERM),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(what: str, process: "subprocess.Popen[str]", log: Path, ready: Any) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.3)


def _serving(address: str) -> bool:
    from graftwork.client.channel import Channel
    from graftwork.client.errors import RemoteError

    channel = Channel(address.strip(), None)
    try:
        return channel.is_serving(timeout=2.0)
    except RemoteError:
        return False
    finally:
        channel.close()


def _answers(address: str) -> bool:
    import http.client

    try:
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
