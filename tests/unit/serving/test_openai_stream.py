"""The end of a streamed answer: whatever ends it, the generation stops before what it holds is given back, once."""

import asyncio
import json
from typing import Any

import pytest

from serving_service.api import patience
from serving_service.api.http.stream import EventStream, Leaving
from serving_service.engine.protocol import EngineUnavailable
from tests.unit.serving.stream_world import GivingBack, Pieces, Wire, run

pytestmark = pytest.mark.timeout(60)  # what these watch for shows as a connection that stays


async def test_a_whole_stream() -> None:
    done: list[str] = []
    wire = Wire()
    await run(Pieces(done), done, wire)
    assert wire.text == "data: one\n\ndata: two\n\n"
    assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    headers = dict(wire.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-graft-route"] == b"base"
    assert b"content-length" not in headers
    assert done == ["closed", "released"]


@pytest.mark.parametrize(("error", "words"), [(EngineUnavailable("it died"), "it died"), (KeyError("secret"), "id1")])
async def test_an_error_is_the_last_event(error: Exception, words: str) -> None:
    done: list[str] = []
    wire = Wire()
    await run(Pieces(done, error=error), done, wire)
    *_, last, end, rest = wire.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    assert words in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert "secret" not in wire.text
    assert done == ["closed", "released"]


@pytest.mark.parametrize("error", [None, EngineUnavailable("it died")])
async def test_what_a_request_holds_is_given_back_before_its_client_is_told_of_the_end(error: Exception | None) -> None:
    """Who asks again at once, with as many places as it may have, would find its own old one taken."""
    done: list[str] = []
    wire = Wire()
    pieces = Pieces(done, error=error)
    if error is None:
        pieces._left.append("data: [DONE]\n\n")

    async def watched(message: dict[str, Any]) -> None:
        if b"[DONE]" in message.get("body", b"") or message.get("more_body") is False:
            assert done == ["closed", "released"]
        await wire.send(message)

    await run(pieces, done, wire, watched)
    assert wire.text.endswith("\n\ndata: [DONE]\n\n")
    assert wire.text.count("[DONE]") == 1
    assert [message["more_body"] for message in wire.sent[1:]] == [True, True, False]


async def test_a_client_that_goes_while_things_are_given_back_does_not_stop_that() -> None:
    giving = GivingBack()
    await giving.begun.wait()
    giving.wire.gone.set()
    await asyncio.wait([giving.answer._leaving.gone])
    await asyncio.sleep(0)
    assert not giving.task.done()
    giving.go_on.set()
    await giving.task
    assert giving.done == ["closed", "released"]


async def test_an_error_of_giving_back_is_not_lost() -> None:
    async def release() -> None:
        raise KeyError("lost")

    wire = Wire()
    pieces = Pieces([])
    pieces._left.append("data: [DONE]\n\n")
    with pytest.raises(KeyError, match="lost"):
        await EventStream(pieces, release, {}, "id1", Leaving(wire.receive))({"type": "http"}, wire.receive, wire.send)
    assert wire.text.endswith("[DONE]\n\n"), "the answer is whole"


async def test_a_connection_that_is_broken_from_the_start_is_no_error() -> None:
    done: list[str] = []

    async def broken(message: dict[str, Any]) -> None:
        raise OSError("reset")

    await run(Pieces(done, endless=True), done, Wire(), broken)
    assert done == ["closed", "released"]


async def test_a_client_that_goes_ends_an_endless_stream() -> None:
    done: list[str] = []
    wire = Wire()
    task = asyncio.create_task(run(Pieces(done, endless=True), done, wire))
    await wire.second.wait()
    wire.gone.set()
    await task
    assert done == ["closed", "released"]


async def test_a_broken_connection_is_no_error() -> None:
    done: list[str] = []
    wire = Wire()

    async def broken(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("reset")

    await run(Pieces(done, endless=True), done, wire, broken)
    assert done == ["closed", "released"]


async def test_a_reader_that_takes_nothing_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.05)
    done: list[str] = []
    wire = Wire()

    async def stalled(message: dict[str, Any]) -> None:
        await wire.send(message)
        if b"two" in message.get("body", b""):
            await asyncio.Event().wait()

    await run(Pieces(done), done, wire, stalled)
    assert wire.second.is_set()
    assert done == ["closed", "released"]


async def test_an_engine_that_takes_long_is_no_stalled_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.01)
    done, looks = list[str](), asyncio.Semaphore(0)
    look = patience.Patience._look
    monkeypatch.setattr(patience.Patience, "_look", lambda self: (look(self), looks.release()))
    wire = Wire()
    task = asyncio.create_task(run(Pieces(done, endless=True), done, wire))
    for _ in range(3):
        await looks.acquire()
    assert not task.done()
    wire.gone.set()
    await task


async def test_a_cancelled_server_gives_everything_back() -> None:
    done: list[str] = []
    wire = Wire()
    task = asyncio.create_task(run(Pieces(done, endless=True), done, wire))
    await wire.second.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["closed", "released"]


async def test_giving_back_goes_on_however_often_the_server_is_told_to_stop() -> None:
    giving = GivingBack()
    await giving.begun.wait()
    for _ in range(2):
        giving.task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([giving.task])
    assert giving.task.cancelled()
    giving.go_on.set()
    await asyncio.wait_for(giving.answer._closed.wait(), 30)
    assert giving.done == ["closed", "released"]
