"""TLS: only a client that trusts the server's authority is served; with mTLS only one that brings a certificate."""

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from graftwork.rpc.auth import Principal, Unauthenticated
from graftwork.rpc.server import RpcServer, build_server
from graftwork.rpc.tls import TlsFiles
from tests.unit.graftwork.certificates import Authority, Pair


class Nobody:
    """Knows no key."""

    async def authenticate(self, token: str) -> Principal:
        raise Unauthenticated("no key is known")


async def serve(tls: TlsFiles) -> RpcServer:
    rpc = await build_server(authenticator=Nobody(), host="127.0.0.1", port=0, service_names=[], tls=tls)
    await rpc.server.start()
    await rpc.set_serving(True)
    return rpc


def credentials(trusted: Path, own: Pair | None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        trusted.read_bytes(),
        own.key.read_bytes() if own else None,
        own.certificate.read_bytes() if own else None,
    )


async def answers(port: int, trusted: Path, own: Pair | None = None) -> bool:
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials(trusted, own)) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "foreign")


async def test_a_client_must_trust_the_servers_authority(ours: Authority, foreign: Authority) -> None:
    server = ours.issue("server")
    rpc = await serve(TlsFiles(server.certificate, server.key))
    try:
        assert await answers(rpc.port, ours.pair.certificate)
        assert not await answers(rpc.port, foreign.pair.certificate)
    finally:
        await rpc.server.stop(None)


async def test_mtls_refuses_a_client_without_a_certificate_of_the_authority(
    ours: Authority, foreign: Authority
) -> None:
    server = ours.issue("server")
    rpc = await serve(TlsFiles(server.certificate, server.key, ours.pair.certificate))
    try:
        assert await answers(rpc.port, ours.pair.certificate, ours.issue("client"))
        assert not await answers(rpc.port, ours.pair.certificate)
        assert not await answers(rpc.port, ours.pair.certificate, foreign.issue("stranger"))
    finally:
        await rpc.server.stop(None)
