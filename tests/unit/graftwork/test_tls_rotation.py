"""Certificates change while a server runs: new connections get the new ones, open ones go on, a wrong pair is not taken."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from graftwork.client.channel import Channel, Identity, tls_identity
from graftwork.rpc.server import RpcServer
from graftwork.rpc.tls import Certificates, TlsFiles, TlsIncomplete, TlsUnusable
from tests.unit.graftwork.certificates import Authority, Pair
from tests.unit.graftwork.test_tls import answers, credentials, serve


class Installed:
    """A server's files, replaced as an operator does: each by a rename."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")

    def put(self, pair: Pair, client_ca: Path) -> None:
        for source, target in ((pair.certificate, self.files.certificate), (pair.key, self.files.key)):
            self.replace(target, source.read_bytes())
        assert self.files.client_ca
        self.replace(self.files.client_ca, client_ca.read_bytes())

    def replace(self, target: Path, data: bytes) -> None:
        partial = target.with_suffix(".new")
        partial.write_bytes(data)
        os.replace(partial, target)


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
async def rpc(installed: Installed) -> AsyncIterator[RpcServer]:
    server = await serve(installed.files)
    yield server
    await server.server.stop(None)


async def test_new_connections_get_the_new_certificate_and_authority_and_open_ones_go_on(
    rpc: RpcServer, installed: Installed, old: Authority, new: Authority
) -> None:
    before = old.issue("client")
    async with grpc.aio.secure_channel(f"127.0.0.1:{rpc.port}", credentials(old.pair.certificate, before)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        installed.put(new.issue("server2"), new.pair.certificate)
        assert await answers(rpc.port, new.pair.certificate, new.issue("client2"))
        assert not await answers(rpc.port, old.pair.certificate, before)
        assert not await answers(rpc.port, new.pair.certificate, before), "its authority has been taken away"
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)


async def test_files_that_do_not_fit_together_are_not_taken_and_the_old_ones_go_on(
    rpc: RpcServer, installed: Installed, old: Authority, new: Authority
) -> None:
    client, pair = old.issue("client"), new.issue("server2")
    with structlog.testing.capture_logs() as logs:
        installed.replace(installed.files.certificate, pair.certificate.read_bytes())
        assert await answers(rpc.port, old.pair.certificate, client)
        assert await answers(rpc.port, old.pair.certificate, client)
        installed.files.key.unlink()
        assert await answers(rpc.port, old.pair.certificate, client)
    refused = [line for line in logs if "not taken" in line["event"]]
    assert len(refused) == 2, "once for each trouble, not with every connection"
    installed.replace(installed.files.key, pair.key.read_bytes())
    assert await answers(rpc.port, new.pair.certificate, client)


def test_a_server_does_not_start_with_files_that_cannot_be_used(tmp_path: Path, old: Authority, new: Authority) -> None:
    one, other = old.issue("one"), new.issue("other")
    with pytest.raises(TlsUnusable, match="cannot be used together"):
        Certificates(TlsFiles(one.certificate, other.key))
    with pytest.raises(TlsUnusable, match=r"missing\.pem"):
        Certificates(TlsFiles(tmp_path / "missing.pem", other.key))
    with pytest.raises(TlsUnusable, match="cannot be used together"):
        Certificates(TlsFiles(one.certificate, one.key, one.key))


async def test_the_client_shows_its_certificate(rpc: RpcServer, old: Authority, tmp_path: Path) -> None:
    own = old.issue("client")
    identity = Identity(own.certificate, own.key)

    def serving(with_identity: Identity | None) -> bool:
        channel = Channel(f"127.0.0.1:{rpc.port}", None, old.pair.certificate, with_identity)
        try:
            return channel.is_serving(timeout=20)
        finally:
            channel.close()

    assert await _in_thread(lambda: serving(identity))
    assert not await _in_thread(lambda: serving(None))


async def _in_thread(work: Callable[[], bool]) -> bool:
    return await asyncio.to_thread(work)


def test_the_commands_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFT_TLS_CERTIFICATE", raising=False)
    monkeypatch.delenv("GRAFT_TLS_KEY", raising=False)
    assert tls_identity() is None
    monkeypatch.setenv("GRAFT_TLS_CERTIFICATE", "/a")
    with pytest.raises(TlsIncomplete):
        tls_identity()
    monkeypatch.setenv("GRAFT_TLS_KEY", "/b")
    assert tls_identity() == Identity(Path("/a"), Path("/b"))
