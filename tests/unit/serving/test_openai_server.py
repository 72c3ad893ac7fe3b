"""The HTTP listener: small events go out at once, a taken port is an error, and nothing takes our signals."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serving_service.api.http import head_deadline
from serving_service.api.http.app import create_app
from serving_service.api.http.head_deadline import HeadDeadline
from serving_service.api.http.server import HttpServer

pytestmark = pytest.mark.timeout(60)  # what these watch for shows as a connection that stays


async def test_a_listener_answers_leaves_signals_alone_and_ends() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    delays: list[int] = []
    inner = create_app([])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    server = HttpServer(app, "127.0.0.1", 0, None, drain_seconds=5)
    await server.start()
    with pytest.raises(OSError, match="stop what has the port"):
        HttpServer(app, "127.0.0.1", server.port, None, drain_seconds=5)
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/nowhere")
        delays += [
            connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for connection in server._server.server_state.connections  # type: ignore[union-attr]
        ]
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.headers["x-request-id"]
    assert "server" not in answer.headers
    assert delays == [1]
    assert signal.getsignal(signal.SIGTERM) is handler
    await server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    server = HttpServer(app, "127.0.0.1", 0, None, drain_seconds=1)
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n", b"\r\n"])
async def test_a_head_that_does_not_come_ends_the_connection(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(head_deadline, "HEAD_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


@pytest.mark.parametrize("sent", [b"G", b"\r\n"])
async def test_nor_does_it_hold_a_connection_that_had_an_answer(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(head_deadline, "HEAD_SECONDS", 0.05)
    writer.write(sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_slow_body_is_not_a_late_head(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()
    awaited: list[object] = []
    complete = HeadDeadline.on_headers_complete

    def noted(self: HeadDeadline) -> None:
        complete(self)
        awaited.append(self._awaited)
        begun.set()

    monkeypatch.setattr(HeadDeadline, "on_headers_complete", noted)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
    await begun.wait()
    writer.write(b"cde")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    assert awaited == [None]
    writer.close()


async def test_a_head_without_end_is_refused(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (head_deadline.MAX_HEAD_BYTES // 6 + 1))
    assert (await reader.read()).startswith(b"HTTP/1.1 431")
    writer.close()
    async with httpx.AsyncClient() as client:
        body = b"x" * (2 * head_deadline.MAX_HEAD_BYTES)
        assert (await client.post(f"http://127.0.0.1:{server.port}/", content=body)).status_code == 200
