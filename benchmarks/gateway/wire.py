"""A gRPC client for the load: one HTTP/2 connection, as little work for each message as Python can do.

The load shares two cores with what it measures, and grpc.aio's client takes as long for a message as a server does. It owns
just what this benchmark needs: requests without compression, windows that never run out, and no reading of headers, so a
call that fails is seen by the answer's last message missing.
"""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST = 2**31 - 1
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4


class Connection(asyncio.Protocol):
    """Carries calls, many at once; `connect` makes one."""

    def __init__(self, authority: str, path: str, key: str) -> None:
        self._head = _literals(
            {
                ":method": "POST",
                ":scheme": "http",
                ":path": path,
                ":authority": authority,
                "te": "trailers",
                "content-type": "application/grpc",
                "authorization": f"Bearer {key}",
            }
        )
        self._streams: dict[int, _Call] = {}
        self._next, self._rest = 1, b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, _LARGEST))
        window = _frame(_WINDOW, 0, 0, struct.pack(">I", _LARGEST - 65535))
        transport.write(_PREFACE + settings + window)

    def connection_lost(self, error: Exception | None) -> None:
        for call in self._streams.values():
            call.end(ConnectionError(f"the connection has gone: {error}"))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + size:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._frame(data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._rest = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        call = self._streams.get(stream)
        if call is not None and kind == _DATA and body:
            call.add(body)
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, body))
        elif kind == _GOAWAY:
            self._transport.close()
        if call is not None and ((kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RESET):
            del self._streams[stream]
            call.end(None)

    async def call(self, message: bytes) -> AsyncIterator[bytes]:
        """Sends one request; yields what comes of the answer as it comes, `messages` reads it."""
        number, self._next = self._next, self._next + 2
        call = self._streams[number] = _Call()
        body = struct.pack(">BI", 0, len(message)) + message
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, number, self._head) + _frame(_DATA, _END_STREAM, number, body)
        )
        while (piece := await call.next()) is not None:
            yield piece


class _Call:
    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._ended, self._error = False, None
        self._waiter: asyncio.Future[None] | None = None

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._wake()

    def end(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._wake()

    async def next(self) -> bytes | None:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._pieces.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(address: str, path: str, key: str) -> Connection:
    """Opens a connection whose calls all go to one method."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(lambda: Connection(address, path, key), host, int(port)))[1]


def messages(answer: bytes) -> list[bytes]:
    """The messages of a whole answer."""
    found, at = [], 0
    while at < len(answer):
        size = int.from_bytes(answer[at + 1 : at + 5], "big")
        found.append(answer[at + 5 : at + 5 + size])
        at += 5 + size
    return found


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _literals(headers: dict[str, str]) -> bytes:
    """HPACK without tables and without compression."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, prefix = len(data) - 127, bytearray((127,))
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes(prefix) + bytes((rest,)) + data
