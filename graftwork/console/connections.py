"""How the console reaches the services: addresses, TLS, and its own certificate where they ask for one.

Owns making clients and channels. Does not own calls, nor whose key goes with them.
"""

import grpc

from graftwork.client import Client
from graftwork.client.channel import tls_identity
from graftwork.console.settings import ConsoleSettings
from graftwork.rpc.server import MAX_MESSAGE_BYTES


def way_to(settings: ConsoleSettings) -> tuple[object, ...]:
    """Names how the services are reached now; it changes with their addresses, and when a certificate's file is replaced.

    Raises:
        TlsIncomplete: as `connect`.
        OSError: a file is not there.
    """
    identity = tls_identity()
    files = (settings.tls_ca, *((identity.certificate, identity.key) if identity else ()))
    return (*settings.addresses(), *((str(file), file.stat().st_mtime_ns) for file in files if file))


def connect(settings: ConsoleSettings, addresses: tuple[str, str], key: str) -> Client:
    """Returns a client with a visitor's key.

    Args:
        settings: of the console.
        addresses: of the trainer and the serving service, from `settings.addresses`.
        key: the visitor's.

    Raises:
        TlsIncomplete: GRAFT_TLS_CERTIFICATE without GRAFT_TLS_KEY, or the other way round.
    """
    return Client(*addresses, key, settings.tls_ca, tls_identity())


def stream_channel(settings: ConsoleSettings, target: str) -> grpc.aio.Channel:
    """Returns a channel for the event loop, without a key. Raises like `connect`."""
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.enable_http_proxy", 0)]
    if settings.tls_ca is None:
        return grpc.aio.insecure_channel(target, options)
    identity = tls_identity()
    own = (identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else ()
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(settings.tls_ca.read_bytes(), *own), options)
