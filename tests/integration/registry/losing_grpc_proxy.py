"""A TCP proxy in front of a gRPC service that can lose one answer: it lets the service act, and then cuts the connection.

Reads just enough of HTTP/2 (RFC 9113) to know an answer: frames of the service on a call's stream that begin its headers. A
service sends none before its handler is done.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_HEADERS = 0x1
_FRAME = 9  # bytes of a frame's own header: 3 length, 1 kind, 1 flags, 4 stream


class LosingGrpcProxy:
    """Passes everything on, but for the next `lose` answers; `lost` counts those."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.lose = 0
        self.lost = 0
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._open):
            _cut(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            service = socket.create_connection(self._upstream)
            self._open += [client, service]
            threading.Thread(target=self._forward, args=(client, service), daemon=True).start()
            threading.Thread(target=self._answer, args=(service, client), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        _cut(source), _cut(target)

    def _answer(self, service: socket.socket, client: socket.socket) -> None:
        try:
            while head := _exactly(service, _FRAME):
                body = _exactly(service, int.from_bytes(head[:3], "big"))
                if head[3] == _HEADERS and self.lose:
                    self.lose -= 1
                    self.lost += 1
                    break
                client.sendall(head + body)
        except OSError:
            pass
        _cut(service), _cut(client)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (piece := source.recv(size - len(data))):
            return b""
        data += piece
    return data


def _cut(end: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        end.shutdown(socket.SHUT_RDWR)
    end.close()
