"""HTTP over TLS: the certificate and the clients' authority change while it runs; nobody gets in with a session of before."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_service.api.http.server import HttpServer
from tests.unit.graftwork.certificates import Authority, Pair
from tests.unit.graftwork.test_tls_rotation import Installed


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def old(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "old")


@pytest.fixture
def new(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "new")


@pytest.fixture
def installed(tmp_path: Path, old: Authority) -> Installed:
    made = Installed(tmp_path / "installed")
    made.put(old.issue("server"), old.pair.certificate)
    return made


@pytest.fixture
async def server(installed: Installed) -> AsyncIterator[HttpServer]:
    made = HttpServer(app, "127.0.0.1", 0, installed.files, drain_seconds=1)
    await made.start()
    yield made
    await made.stop()


def context(trusted: Path, own: Pair | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(trusted))
    if own:
        made.load_cert_chain(own.certificate, own.key)
    return made


async def answers(server: HttpServer, with_context: ssl.SSLContext) -> bool:
    async with httpx.AsyncClient(verify=with_context) as client:
        try:
            answer = await client.get(f"https://127.0.0.1:{server.port}/")
        except httpx.TransportError:
            return False
    return answer.text == "ok"


async def test_mtls_asks_for_a_certificate_of_the_authority(server: HttpServer, old: Authority, new: Authority) -> None:
    assert await answers(server, context(old.pair.certificate, old.issue("client")))
    assert not await answers(server, context(old.pair.certificate, None))
    assert not await answers(server, context(old.pair.certificate, new.issue("stranger")))


async def test_new_files_are_used_from_the_next_connection_on(
    server: HttpServer, installed: Installed, old: Authority, new: Authority
) -> None:
    before = context(old.pair.certificate, old.issue("client"))
    assert await answers(server, before)
    installed.put(new.issue("server2"), new.pair.certificate)
    assert await answers(server, context(new.pair.certificate, new.issue("client2")))
    assert not await answers(server, before)
    mixed = context(new.pair.certificate, old.issue("client3"))
    assert not await answers(server, mixed), "its authority has been taken away"


async def test_a_session_of_before_does_not_let_a_client_in_without_its_certificate(
    server: HttpServer, installed: Installed, old: Authority, new: Authority
) -> None:
    both = context(old.pair.certificate, old.issue("client"))
    both.load_verify_locations(new.pair.certificate)
    first = await _session(server, both, None)
    assert first is not None
    assert not first.has_ticket
    assert await _session(server, both, first) is not None, "the certificate is still good"
    installed.put(new.issue("server2"), new.pair.certificate)
    assert await _session(server, both, first) is None
    assert await _session(server, both, None) is None
    both.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions OpenSSL would remember
    assert await _session(server, both, None) is None


async def _session(server: HttpServer, with_context: ssl.SSLContext, session: Any) -> Any:
    """Connects, with a session of before where there is one; returns the new session, None when it was refused."""

    def connect() -> Any:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
            try:
                with with_context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure:
                    secure.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    if not secure.recv(1000).startswith(b"HTTP/1.1 200"):
                        return None
                    return secure.session
            except (ssl.SSLError, ConnectionError):
                return None

    return await asyncio.to_thread(connect)
