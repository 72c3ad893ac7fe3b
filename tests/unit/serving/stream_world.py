"""A streamed answer over HTTP without a server: events, and a client that may go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from serving_service.api.http.stream import EventStream, Leaving

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
