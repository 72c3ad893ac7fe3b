"""A streamed answer on the wire, and what happens when its reader goes.

Owns the end of a stream: finished, failed, or the client gone or stalled; in every case the generation stops and what the
request holds is given back before this returns. Where the client is told of the end, before that: whoever asks again at once finds
the place free that its last request had.
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
from serving_service.api.patience import Patience
from serving_service.engine.openai_protocol import Events

_DONE = "data: [DONE]\n\n"
"""What vLLM ends each stream with."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Leaving:
    """Notices that a request's client closes the connection, from when its body has been read to the end of its answer.

    Args:
        receive: of the request.

    Attributes:
        gone: done once it has.
    """

    def __init__(self, receive: Receive) -> None:
        self.gone: asyncio.Task[None] = asyncio.create_task(_gone(receive))

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work`, in the caller's own task: one of its own would begin after all other requests that have just come.

        Raises:
            ClientGone: the client closed the connection first; `work` was cancelled and has ended.
        """
        task = asyncio.current_task()
        assert task is not None
        left, over, before = False, False, task.cancelling()

        def leave(_: "asyncio.Task[None]") -> None:
            nonlocal left
            if over:  # it was to be called when the work ended: what comes after that is not cancelled
                return
            left = True
            task.cancel()

        self.gone.add_done_callback(leave)
        try:
            result = await work
            if not left:
                return result
        except (Exception, asyncio.CancelledError):
            if not left:
                raise
        finally:
            over = True
            self.gone.remove_done_callback(leave)
        if task.uncancel() > before:
            raise asyncio.CancelledError  # from elsewhere, too
        raise ClientGone("the client closed the connection")

    def close(self) -> None:
        """Looks no longer."""
        self.gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class EventStream(Response):
    """Server-sent events.

    Args:
        events: closed at the end.
        release: gives back what the request holds; called once, after the generation has stopped.
        headers: of the answer.
        request_id: for the text of an unknown error.
        leaving: of the request; closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events,
        release: Callable[[], Awaitable[None]],
        headers: dict[str, str],
        request_id: str,
        leaving: Leaving,
    ) -> None:
        self._events, self._release, self._request_id, self._leaving = events, release, request_id, leaving
        self._closing, self._closed = False, asyncio.Event()
        self.status_code, self.background, self.body = 200, None, b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the stream or its reader ends."""
        reader = _Reader(send)
        pump = asyncio.create_task(self._pump(reader.send))
        try:
            await asyncio.wait({pump, self._leaving.gone, reader.stalled}, return_when=asyncio.FIRST_COMPLETED)
            if reader.stalled.done():
                log.info("the reader of a stream has gone", request_id=self._request_id)
        finally:
            reader.close()
            self._leaving.close()
            if not self._closing:
                await _end(pump)
            try:
                await asyncio.shield(self._close())
            finally:
                if self._closed.is_set():  # else the pump is at it, cancelled or not, and ends then
                    await _end(pump)
        if pump.done() and not pump.cancelled():
            pump.result()  # for its error

    async def _close(self) -> None:
        """Once, whoever asks first; the other one waits for it."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            await self._events.aclose()
        finally:
            try:
                await self._release()
            finally:
                self._closed.set()

    async def _pump(self, send: Send) -> None:
        end = ""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                if event == _DONE:
                    end = event
                    break
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        except OSError:
            log.info("the reader of a stream has gone", request_id=self._request_id)
            return
        except Exception as error:
            if not isinstance(error, GraftError):
                log.exception("unexpected error", request_id=self._request_id)
            # The status is out already; clients look for an `error` in an event.
            failure = failure_of(error, self._request_id)
            end = f"data: {json.dumps(failure.body)}\n\n{_DONE}"
        try:
            await self._close()
        finally:
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": end.encode(), "more_body": False})


class _Reader:
    """Sends to a reader, and notices when it takes nothing (`patience`).

    Attributes:
        stalled: done once a send has taken too long.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.stalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._patience = Patience(lambda: self.stalled.set_result(None))

    async def send(self, message: Message) -> None:
        self._patience.sending()
        await self._send(message)
        self._patience.sent()

    def close(self) -> None:
        self._patience.close()
        self.stalled.cancel()
