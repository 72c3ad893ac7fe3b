"""A streamed answer on the wire, and what happens when its reader goes.

Owns the end of a stream: finished, failed, or the client gone or stalled; in every case the generation stops and what the
request holds is given back before this returns.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from graftwork.errors import GraftError
from serving_service.api.http.errors import ClientGone, failure_of
from serving_service.engine.openai_protocol import Events

_STALLED_SECONDS = 60.0
"""For a reader to take what was sent; then it counts as gone, since it holds a place in the batch."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, whose request has been read whole.

    Raises:
        ClientGone: the client closed the connection first; `work` was cancelled and has ended.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        await _end(task, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events.

    Args:
        events: closed at the end.
        release: gives back what the request holds; called once, after the generation has stopped.
        headers: of the answer.
        request_id: for the text of an unknown error.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: Events, release: Callable[[], Awaitable[None]], headers: dict[str, str], request_id: str
    ) -> None:
        self._events, self._release, self._request_id = events, release, request_id
        self.status_code, self.background, self.body = 200, None, b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the stream or its reader ends."""
        pump, gone = asyncio.create_task(self._pump(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(pump, gone)
            await asyncio.shield(self._close())

    async def _close(self) -> None:
        try:
            await self._events.aclose()
        finally:
            await self._release()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await _sent(send, event.encode())
        except (TimeoutError, OSError):
            log.info("the reader of a stream has gone", request_id=self._request_id)
            return
        except Exception as error:
            if not isinstance(error, GraftError):
                log.exception("unexpected error", request_id=self._request_id)
            # The status is out already; clients look for an `error` in an event.
            failure = failure_of(error, self._request_id)
            await _sent(send, f"data: {json.dumps(failure.body)}\n\ndata: [DONE]\n\n".encode())
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _sent(send: Send, data: bytes) -> None:
    message: Message = {"type": "http.response.body", "body": data, "more_body": True}
    async with asyncio.timeout(_STALLED_SECONDS):
        await send(message)
