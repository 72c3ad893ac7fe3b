"""The HTTP listener: small events go out at once, a taken port is an error, and nothing takes our signals."""

import signal
import socket
from typing import Any

import httpx
import pytest

from serving_service.api.http.app import create_app
from serving_service.api.http.server import HttpServer


async def test_a_listener_answers_leaves_signals_alone_and_ends() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    delays: list[int] = []
    inner = create_app([])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    server = HttpServer(app, "127.0.0.1", 0, None, drain_seconds=5)
    await server.start()
    with pytest.raises(OSError, match="another service"):
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
