"""The end of a streamed answer: whatever ends it, the generation stops before what it holds is given back, once."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving_service.api import patience
from serving_service.api.http.errors import ClientGone
from serving_service.api.http.stream import EventStream, Leaving
from serving_service.engine.protocol import EngineUnavailable

pytestmark = pytest.mark.timeout(60)  # what these watch for shows as a connection that stays

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Pieces:
    """Events that end, fail, or go on for ever."""

    def __init__(self, done: list[str], *, error: Exception | None = None, endless: bool = False) -> None:
        self._done, self._error, self._endless = done, error, endless
        self._left = ["data: one\n\n", "data: two\n\n"]

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> str:
        if self._left:
            return self._left.pop(0)
        if self._error:
            raise self._error
        if self._endless:
            await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._done.append("closed")


class Wire:
    """A client: what it got, and when it goes."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.second = asyncio.Event()
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if b"two" in message.get("body", b""):
            self.second.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


class GivingBack:
    """An answer that has ended, whose release waits until it may go on."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.wire, self.begun, self.go_on = Wire(), asyncio.Event(), asyncio.Event()
        self.answer = EventStream(Pieces(self.done), self._release, {}, "id1", Leaving(self.wire.receive))
        self.task = asyncio.create_task(self.answer({"type": "http"}, self.wire.receive, self.wire.send))

    async def _release(self) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.done.append("released")


async def run(pieces: Pieces, done: list[str], wire: Wire, send: Send | None = None) -> None:
    async def release() -> None:
        done.append("released")

    answer = EventStream(pieces, release, {"x-graft-route": "base"}, "id1", Leaving(wire.receive))
    await answer({"type": "http"}, wire.receive, send or wire.send)  # type: ignore[arg-type]


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


async def test_work_ends_with_its_client() -> None:
    wire = Wire()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            wire.gone.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ClientGone):
        await Leaving(wire.receive).unless_gone(work())
    assert ended.is_set()

    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "what comes after it is not cancelled"

    async def quick() -> int:
        return 5

    leaving = Leaving(Wire().receive)
    assert await leaving.unless_gone(quick()) == 5
    assert not leaving.gone.done()  # the stream that follows is watched by the same
    leaving.close()
    await asyncio.wait([leaving.gone])
    assert leaving.gone.cancelled()


@pytest.mark.parametrize("ends", [5, RuntimeError("of its own")])
async def test_work_that_swallows_that_its_client_has_gone_is_not_answered(ends: int | Exception) -> None:
    """As vLLM's handlers do, which answer a cancellation."""
    wire = Wire()

    async def work() -> int:
        wire.gone.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if isinstance(ends, Exception):
            raise ends
        return ends

    with pytest.raises(ClientGone):
        await Leaving(wire.receive).unless_gone(work())
    await asyncio.sleep(0)  # is not cancelled


async def test_work_that_is_cancelled_itself_says_so_whether_its_client_has_gone_or_not() -> None:
    for gone in (False, True):
        wire = Wire()
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work(begun: asyncio.Event = begun, ended: asyncio.Event = ended) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        leaving = Leaving(wire.receive)
        task = asyncio.create_task(leaving.unless_gone(work()))
        await begun.wait()
        if gone:
            leaving.gone.add_done_callback(lambda _, task=task: task.cancel())  # in the same turn
            wire.gone.set()
        else:
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ended.is_set()
        leaving.close()


async def test_work_begins_in_the_turn_that_its_request_was_read_in() -> None:
    """Else of many requests that come at once none would begin before all of them have come."""
    order = []

    async def request(number: int) -> None:
        order.append(("read", number))

        async def work() -> None:
            order.append(("begun", number))

        leaving = Leaving(Wire().receive)
        await leaving.unless_gone(work())
        leaving.close()

    await asyncio.gather(*(request(number) for number in range(3)))
    assert order == [(what, number) for number in range(3) for what in ("read", "begun")]


async def test_what_comes_after_work_that_ended_as_its_client_left_is_not_cancelled() -> None:
    """Both in one turn of the loop: the work is done, and so is the wish to end it."""
    both = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await both.wait()
        return {"type": "http.disconnect"}

    async def work() -> int:
        await both.wait()
        return 5

    async def request() -> int:
        answer = await Leaving(receive).unless_gone(work())
        for _ in range(5):
            await asyncio.sleep(0)  # giving things back takes a few turns
        return answer

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    both.set()
    assert await task == 5


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
