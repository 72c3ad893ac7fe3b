"""uvicorn's HTTP protocol with bounds on a request's head: how long it may take to come, and how long it may be.

Without them a connection that sends a byte now and then is held for ever, and one that sends headers without end fills the
memory. Owns the head only: a body's time and size are `body`'s, an idle connection's time is uvicorn's.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
MAX_HEAD_BYTES = 64 * 1024
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class HeadDeadline(HttpToolsProtocol):
    """One connection. A head is awaited from when the connection is made, and again from the first byte after an answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if not self._answering:
            self._await_head()  # here and not only when a request begins: empty lines before it begin none
        super().data_received(data)
        if self._awaited is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_LONG)

    def on_message_begin(self) -> None:
        self._await_head()  # of a request sent before the last one is answered
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._awaited is None:
            self._head_bytes = 0
            self._awaited = self.loop.call_later(HEAD_SECONDS, self._late)

    def _head_came(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _late(self) -> None:
        self._awaited = None
        if self._answering:  # the answer under way is not cut off; the head's time begins anew
            self._await_head()
        else:
            self._refuse(_LATE)

    def _refuse(self, answer: bytes) -> None:
        self._head_came()
        if not self.transport.is_closing():
            if not self._answering:
                self.transport.write(answer)
            self.transport.close()
