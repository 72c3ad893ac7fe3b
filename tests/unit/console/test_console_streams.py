"""Server-sent events: what a stream says at its end, in trouble, in silence, and when the session is over."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from graftwork.client.errors import RemoteNotFound, RemoteUnavailable
from graftwork.console import streams
from graftwork.console.errors import TooMany
from graftwork.console.sessions import MAX_STREAMS, Sessions
from graftwork.console.settings import ConsoleSettings
from graftwork.console.streams import Event, event_stream
from graftwork.console.visitor import Visitor
from graftwork.rpc.auth import Principal, Role


@pytest.fixture
def visitor() -> Visitor:
    settings = ConsoleSettings()
    sessions = Sessions(settings)
    return Visitor(sessions.begin("gwop_x", Principal(Role.OPERATOR, None, "id")), settings, sessions)


async def told(visitor: Visitor, events: AsyncGenerator[Event, None]) -> list[str]:
    return [str(chunk, "utf-8") async for chunk in event_stream(visitor, events).body_iterator]  # type: ignore[arg-type]


def trouble(chunk: str) -> dict[str, object]:
    assert chunk.startswith("event: trouble\n")
    found = json.loads(chunk.split("data: ")[1])
    assert isinstance(found, dict)
    return found


async def two_events(error: Exception | None = None) -> AsyncGenerator[Event, None]:
    yield Event("line", {"text": "one\ntwo"}, 7)
    yield Event("step", {"loss": 0.5}, 8)
    if error:
        raise error


async def test_a_whole_stream_ends_with_end_so_that_nobody_reconnects(visitor: Visitor) -> None:
    chunks = await told(visitor, two_events())
    assert chunks[0] == "retry: 2000\n\n"
    assert chunks[1] == 'id: 7\nevent: line\ndata: {"text":"one\\ntwo"}\n\n'
    assert chunks[-1] == "event: end\ndata: null\n\n"


@pytest.mark.parametrize(
    ("error", "again"), [(RemoteUnavailable("away"), True), (RemoteNotFound("none"), False), (TooMany("many"), False)]
)
async def test_trouble_says_whether_to_come_again(visitor: Visitor, error: Exception, again: bool) -> None:
    chunks = await told(visitor, two_events(error))
    assert trouble(chunks[-1]) == {"message": str(error), "again": again}


async def test_a_silent_stream_beats_and_ends_with_its_session(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_HEARTBEAT_S", 0.01)
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[Event, None]:
        try:
            await asyncio.Event().wait()
            yield Event("never", None)
        finally:
            closed.set()

    chunks = []
    async for chunk in event_stream(visitor, silent()).body_iterator:
        chunks.append(str(chunk, "utf-8"))  # type: ignore[arg-type]
        if chunks[-1] == ": alive\n\n":
            visitor.sessions.end(visitor.session.id)
    assert trouble(chunks[-1])["again"] is False
    assert closed.is_set()


async def test_a_browser_that_leaves_ends_the_call_and_gives_its_stream_back(visitor: Visitor) -> None:
    for _ in range(MAX_STREAMS + 1):
        events = two_events()
        body = event_stream(visitor, events).body_iterator
        async for chunk in body:
            if b"step" in chunk:  # type: ignore[operator]
                break
        await body.aclose()  # type: ignore[attr-defined]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
