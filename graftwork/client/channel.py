"""One service's channel: address, key, TLS, time limits, and retries of calls that may be repeated.

Owns how a call is made. Does not own which calls there are (`client.py`).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from graftwork.client.errors import RemoteError, from_call
from graftwork.rpc.server import MAX_MESSAGE_BYTES
from graftwork.rpc.status import STATUS
from graftwork.rpc.tls import TlsIncomplete

CALL_TIMEOUT_S = 60.0
"""Of a unary call; streams have none, as a job may train for days."""
TRIES = 4
"""Of an idempotent call that found the service away."""

Answer = TypeVar("Answer")


def tls_ca() -> Path | None:
    """The authority that local commands trust: GRAFT_TLS_CA, None for plain text."""
    return Path(found) if (found := os.environ.get("GRAFT_TLS_CA")) else None


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate that a client shows to services that ask for one (mTLS).

    Attributes:
        certificate, key: PEM files.
    """

    certificate: Path
    key: Path


def tls_identity() -> Identity | None:
    """The certificate of local commands: GRAFT_TLS_CERTIFICATE and GRAFT_TLS_KEY, None without.

    Raises:
        TlsIncomplete: one of them without the other.
    """
    certificate, key = (os.environ.get(f"GRAFT_TLS_{name}") for name in ("CERTIFICATE", "KEY"))
    if bool(certificate) != bool(key):
        raise TlsIncomplete("a client's certificate needs its key too: set GRAFT_TLS_CERTIFICATE and GRAFT_TLS_KEY")
    return Identity(Path(certificate), Path(key)) if certificate and key else None


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, RemoteError) and STATUS[error.code].retry


class Channel:
    """A connection to one service.

    Args:
        target: `host:port`.
        api_key: an operator's or a tenant's key; None sends none.
        tls_ca: PEM file of the authority that signed the server's certificate; None speaks plain text.
        identity: for services that ask for a client's certificate; of no use without `tls_ca`.
    """

    def __init__(
        self, target: str, api_key: str | None, tls_ca: Path | None = None, identity: Identity | None = None
    ) -> None:
        self.target = target
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_http_proxy", 0),  # a proxy for the web must not see prompts, nor break loopback
        ]
        if tls_ca:
            own = (identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else ()
            self.channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(tls_ca.read_bytes(), *own), options)
        else:
            self.channel = grpc.insecure_channel(target, options)

    def call(
        self, method: Callable[..., Answer], request: Any, *, idempotent: bool, timeout: float = CALL_TIMEOUT_S
    ) -> Answer:
        """Makes a unary call.

        Args:
            method: of a stub on `channel`.
            request: its message, an iterator of messages, or what makes one, so that a stream can begin again.
            idempotent: may be repeated when the service was away.
            timeout: seconds for each try.

        Raises:
            RemoteError: a subclass by code.
        """

        def once() -> Answer:
            try:
                return method(request() if callable(request) else request, timeout=timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                raise from_call(error, self.target) from None

        if not idempotent:
            return once()
        policy = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential_jitter(multiplier=0.2, max=3),
            reraise=True,
        )
        return policy(once)

    def stream(
        self, method: Callable[..., Iterable[Answer]], request: Any, timeout: float | None = None
    ) -> Iterator[Answer]:
        """Makes a server-streaming call; closing the iterator cancels it.

        Raises:
            RemoteError: while iterating.
        """
        call = method(request, timeout=timeout, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_call(error, self.target) from None
        finally:
            call.cancel()  # type: ignore[attr-defined]

    def is_serving(self, timeout: float = 2.0) -> bool:
        """Tells whether the service is up and says that it serves."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        self.channel.close()
