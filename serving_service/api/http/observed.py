"""What `graftwork.rpc`'s interceptor does for gRPC calls, for HTTP requests: trace context in, observers told.

Owns the bound on route labels. Does not own what observers make of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.rpc.observing import CallObserver
from graftwork.trace_context import set_trace_headers

_UNKNOWN = "/HTTP/other"
_METHODS = frozenset({"GET", "HEAD", "POST"})  # callers may make up others


class ObservedHttp:
    """ASGI middleware; the outermost one.

    Args:
        app: what answers.
        observers: are told of each request as of a call of the service HTTP.
        paths: that have a label of their own; all others share one, since callers choose them.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[CallObserver], paths: Sequence[str]) -> None:
        self._app, self._observers, self._paths = app, observers, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # uvicorn runs each request in a task of its own, so nothing has to be taken back.
        set_trace_headers({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        known = scope["path"] in self._paths and scope["method"] in _METHODS
        method = f"/HTTP/{scope['method']} {scope['path']}" if known else _UNKNOWN
        ends = [observer.began(method) for observer in self._observers]
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            for ended in ends:
                ended(answer.status)


class _Answer:
    """Notes the status that goes out; without one the caller has gone or the application failed."""

    def __init__(self, send: Callable[[Message], Any]) -> None:
        self._send = send
        self.status = "CANCELLED"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = "OK" if message["status"] < 400 else str(message["status"])
        await self._send(message)
