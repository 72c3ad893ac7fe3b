"""The traffic of `benchmarks.multi_lora`'s cut-over counts what went wrong: a benchmark that cannot see an error shows none."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from benchmarks.multi_lora.cutover import ANSWER, Traffic
from graftwork.v1 import serving_pb2, serving_pb2_grpc

OURS, THEIRS = "the alias's version", "another version"


class Service(serving_pb2_grpc.ServingServiceServicer):
    """Answers well, except each fourth call: in the way that it is told."""

    def __init__(self, fault: str) -> None:
        self._fault, self._calls = fault, 0

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[serving_pb2.GenerateResponse]:
        self._calls += 1
        fault = self._fault if self._calls % 4 == 0 else ""
        if fault == "refused":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        version = THEIRS if fault == "wrong version" else OURS
        started = serving_pb2.GenerateStarted(version=version, route=serving_pb2.ROUTE_MERGED)
        yield serving_pb2.GenerateResponse(started=started)
        if fault == "cut":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the engine died")
        finished = serving_pb2.GenerateFinished()
        finished.usage.completion_tokens = ANSWER - (fault == "short")
        yield serving_pb2.GenerateResponse(finished=finished)


async def answered(fault: str, calls: int) -> Traffic:
    server = grpc.aio.server()
    serving_pb2_grpc.add_ServingServiceServicer_to_server(Service(fault), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Traffic(f"127.0.0.1:{port}", "key", "task:prod", 100, {OURS}) as traffic:
        await traffic.until("answers", lambda: traffic.answered.total() >= calls, 30)
    await server.stop(None)
    return traffic


@pytest.mark.parametrize("fault", ["refused", "cut", "short", "wrong version"])
def test_each_way_to_fail_is_counted(fault: str) -> None:
    traffic = asyncio.run(answered(fault, 12))
    assert traffic.errors.total() >= 12 // 4 - 1, traffic.errors
    assert len(traffic.errors) == 1
    assert set(traffic.answered) == {("ROUTE_MERGED", OURS)}


def test_good_answers_are_no_errors() -> None:
    traffic = asyncio.run(answered("", 12))
    assert not traffic.errors
