"""Over gRPC a reader that takes nothing of its answer does not keep its place, though its connection is there."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapter_store import open_store
from graftwork.v1 import serving_pb2, serving_pb2_grpc
from serving_service.api import patience
from serving_service.core.admission_limits import TenantPolicy
from serving_service.engine.protocol import Delta
from tests.unit.serving.scripted import ScriptedEngine
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService

PIECE = "x" * 10_000
"""A few of these fill what gRPC takes for a reader that does not read."""


class Endless(ScriptedEngine):
    """Goes on until its answer is given up."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    async def generate(self, *args: Any, **named: Any) -> Any:
        try:
            while True:
                yield Delta(PIECE, 1)
        finally:
            self.ended.set()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ScriptedService]:
    running = ScriptedService(tmp_path, open_store(f"file://{tmp_path}/store"), Endless(), TenantPolicy())
    yield running
    running.stop()


def test_a_reader_that_takes_nothing_gives_its_place_back(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    engine = service.engine
    assert isinstance(engine, Endless)
    with grpc.insecure_channel(service.address) as channel:
        stub = serving_pb2_grpc.ServingServiceStub(channel)
        request = serving_pb2.GenerateRequest(prompt="x", sampling=serving_pb2.Sampling(max_tokens=1))
        answer = stub.Generate(request, metadata=(("authorization", f"Bearer {OPERATOR}"),), timeout=60)
        next(answer)  # it has begun; nothing is read from here on
        assert engine.ended.wait(30)
        with pytest.raises(grpc.RpcError) as ended:
            for _ in answer:
                pass
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        assert "taken" in ended.value.details()
    assert service.running == 0


def test_one_that_reads_slowly_keeps_it(service: ScriptedService, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the one send that waits, not how long the answer takes."""
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    looks = threading.Semaphore(0)
    look = patience.Patience._look
    monkeypatch.setattr(patience.Patience, "_look", lambda self: (look(self), looks.release()))
    with grpc.insecure_channel(service.address) as channel:
        stub = serving_pb2_grpc.ServingServiceStub(channel)
        request = serving_pb2.GenerateRequest(prompt="x", sampling=serving_pb2.Sampling(max_tokens=1))
        answer = stub.Generate(request, metadata=(("authorization", f"Bearer {OPERATOR}"),))
        for _ in range(4):
            while not looks.acquire(blocking=False):
                next(answer)
        answer.cancel()
