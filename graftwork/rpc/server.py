"""Builds a gRPC server: limits, TLS, health, reflection, and the address file that tells others where it listens.

Does not own what the server offers: services add their servicers themselves.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.auth import Authenticator
from graftwork.rpc.interceptor import CallInterceptor
from graftwork.rpc.observing import CallObserver

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest message either way: gRPC's own default, stated so that a raised default does not raise it for us."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server.

    Attributes:
        certificate, key: the server's own.
        client_ca: when set, clients must show a certificate that it signed (mTLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Returns a service's TLS files, or None when it is set to plain text.

    Raises:
        TlsIncomplete: one of certificate and key without the other; plain text would be served where TLS was meant.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise TlsIncomplete("TLS needs both a certificate and a key: set tls_certificate and tls_key, or neither")
    return TlsFiles(certificate, key, client_ca)


class TlsIncomplete(GraftError):
    """Half of the TLS settings."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


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
    authenticator: Authenticator,
    host: str,
    port: int,
    service_names: Sequence[str],
    tls: TlsFiles | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    observers: Sequence[CallObserver] = (),
) -> RpcServer:
    """Creates a bound, not yet started server whose health says NOT_SERVING.

    Args:
        authenticator: turns keys into callers.
        host: address to listen on.
        port: 0 takes any free port.
        service_names: full names for reflection and health, `graftwork.v1.TrainerService`.
        tls: PEM files; None serves plain text.
        max_message_bytes: per message, either way.
        observers: are told of each call.

    Raises:
        OSError: the address is taken or not ours.
    """
    server = grpc.aio.server(
        interceptors=[CallInterceptor(authenticator, observers)],
        options=[
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
        bound = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{_cannot_listen(address)} ({str(error).partition(';')[0]})") from error
    if not bound:
        raise OSError(_cannot_listen(address))
    built = RpcServer(server, servicer, bound, tuple(service_names))
    await built.set_serving(False)
    return built


def _cannot_listen(address: str) -> str:
    return f"cannot listen on {address}: another process has the port; stop that, or set another port (0 takes any free one)"


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    client_ca = tls.client_ca.read_bytes() if tls.client_ca else None
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def write_address_file(path: Path, host: str, port: int) -> None:
    """Writes `host:port` so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f"{host}:{port}\n")
    os.replace(partial, path)
