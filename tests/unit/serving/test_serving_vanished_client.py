"""A client that says no goodbye, as one whose machine lost power, does not keep its place: the connection is asked, and closed."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapter_store import open_store
from graftwork.rpc import server
from graftwork.v1 import serving_pb2, serving_pb2_grpc
from serving_service.core.admission_limits import TenantPolicy
from serving_service.engine.protocol import Delta
from tests.unit.serving.scripted import ScriptedEngine
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService


class Thinking(ScriptedEngine):
    """Says one word, then nothing for ever: there is no send that could take too long."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    async def generate(self, *args: Any, **named: Any) -> Any:
        try:
            yield Delta("well", 1)
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class MuteProxy:
    """Carries one connection until it is `mute`: then it takes what comes from either side, and passes nothing on."""

    def __init__(self, upstream: str) -> None:
        host, port = upstream.rsplit(":", 1)
        self.mute = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._upstream = (host, int(port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        service = socket.create_connection(self._upstream)
        for one, other in ((client, service), (service, client)):
            threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not self.mute:
                    target.sendall(data)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedService]:
    monkeypatch.setattr(server, "KEEPALIVE_MS", 300)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_MS", 300)
    running = ScriptedService(tmp_path, open_store(f"file://{tmp_path}/store"), Thinking(), TenantPolicy())
    yield running
    running.stop()


def test_a_client_that_vanished_gives_its_place_back(service: ScriptedService) -> None:
    engine = service.engine
    assert isinstance(engine, Thinking)
    proxy = MuteProxy(service.address)
    with grpc.insecure_channel(proxy.address) as channel:
        stub = serving_pb2_grpc.ServingServiceStub(channel)
        request = serving_pb2.GenerateRequest(prompt="x", sampling=serving_pb2.Sampling(max_tokens=9))
        answer = stub.Generate(request, metadata=(("authorization", f"Bearer {OPERATOR}"),), timeout=60)
        while next(answer).WhichOneof("part") != "text":
            pass
        proxy.mute = True
        assert engine.ended.wait(30)
    assert service.running == 0
