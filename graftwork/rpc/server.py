"""Builds a gRPC server: limits, TLS, health, reflection, and the address file that tells others where it listens.

Does not own what the server offers: services add their servicers themselves.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from graftwork.rpc.audit import Trail
from graftwork.rpc.auth import Authenticator
from graftwork.rpc.door import Door
from graftwork.rpc.interceptor import CallInterceptor
from graftwork.rpc.observing import CallObserver
from graftwork.rpc.tls import Certificates, TlsFiles

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest message either way: gRPC's own default, stated so that a raised default does not raise it for us."""
MAX_METADATA_BYTES = 16 * 1024
"""Of all of a call's metadata together; above it gRPC refuses the call by itself."""
_CONNECTION_AGE_MS = 60 * 60 * 1000
"""With mTLS: a client whose authority was taken away is out after so long; calls under way end in peace, and clients connect
again by themselves."""

KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 60_000, 60_000
"""A connection whose other end says nothing for so long is asked whether it is there, and closed when no answer comes: who lost power or
its network says no goodbye, and what its calls hold would stay held for as long as TCP tries, a quarter of an hour. gRPC asks after two
hours by itself; the minute for an answer is its own, as an upload through a slow line may be ahead of it."""


@dataclass(frozen=True, slots=True)
class RpcServer:
    """A built server, its health servicer and the port that it is bound to."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    port: int
    service_names: tuple[str, ...] = ()

    async def set_serving(self, serving: bool, *services: str) -> None:
        """Sets the health that load balancers and `graft status` read.

        Args:
            serving: whether calls can succeed.
            services: full names; none is the server as a whole ("") and every service.
        """
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in services or ("", *self.service_names):
            await self.health.set(name, state)


async def build_server(
    *,
    authenticator: Authenticator | Door,
    host: str,
    port: int,
    service_names: Sequence[str],
    tls: TlsFiles | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    observers: Sequence[CallObserver] = (),
    trail: Trail | None = None,
) -> RpcServer:
    """Creates a bound, not yet started server whose health says NOT_SERVING.

    Args:
        authenticator: turns keys into callers; a door that other listeners share, or what one is put in front of.
        host: address to listen on.
        port: 0 takes any free port.
        service_names: full names for reflection and health, `graftwork.v1.TrainerService`.
        tls: PEM files, read again when they change; None serves plain text.
        max_message_bytes: per message, either way.
        observers: are told of each call.
        trail: keeps the audit log; None keeps none, for servers that change nothing.

    Raises:
        OSError: the address is taken or not ours.
        TlsUnusable: the PEM files cannot be used.
    """
    server = grpc.aio.server(
        interceptors=[CallInterceptor(authenticator, observers, trail)],
        options=[
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # The one that counts: without it a ping may take a minute whatever the option above says.
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            *([("grpc.max_connection_age_ms", _CONNECTION_AGE_MS)] if tls and tls.client_ca else []),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Two servers on one port would share its calls at random: a second `graft up` must fail instead.
            ("grpc.so_reuseport", 0),
        ],
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"{host}:{port}"
    try:
        bound = (
            server.add_secure_port(address, Certificates(tls).grpc_credentials())
            if tls
            else server.add_insecure_port(address)
        )
    except RuntimeError as error:
        raise OSError(f"{_cannot_listen(address)} ({str(error).partition(';')[0]})") from error
    if not bound:
        raise OSError(_cannot_listen(address))
    built = RpcServer(server, servicer, bound, tuple(service_names))
    await built.set_serving(False)
    return built


def _cannot_listen(address: str) -> str:
    return f"cannot listen on {address}: another process has the port; stop that, or set another port (0 takes any free one)"


def write_address_file(path: Path, host: str, port: int) -> None:
    """Writes `host:port` so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f"{host}:{port}\n")
    os.replace(partial, path)
