"""A server's certificates: which files, and how they are exchanged while the server runs.

Owns reading, checking and noticing that the files have changed; gRPC and HTTP take new ones with the next connection, and
connections that are open keep theirs. A new pair that does not fit together, as while it is being written, is not taken: the
old one goes on, and the log says so once. Does not own the listeners.
"""

import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc
import structlog

from graftwork.errors import ErrorCode, GraftError

log = structlog.get_logger("graftwork.rpc")

_Stamp = tuple[tuple[int, int, int], ...]


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

    @property
    def all(self) -> tuple[Path, ...]:
        """The files that there are."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


class TlsIncomplete(GraftError):
    """Half of the TLS settings."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class TlsUnusable(GraftError):
    """PEM files that cannot be read, or a certificate and a key that do not belong together."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


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


class Certificates:
    """A server's certificates as they are now. Used from gRPC's threads and from the event loop.

    Args:
        files: where they lie; replace them as a whole (rename, or a symbolic link as Kubernetes does).

    Raises:
        TlsUnusable: they cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._loaded = _load(files)
        self._tried, self._told = self._loaded.stamp, ""

    def http_context(self) -> ssl.SSLContext:
        """Returns the context to listen with: each connection is given the current one while it says hello."""
        context = _load(self._files).context

        def hello(connection: ssl.SSLSocket | ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
            connection.context = self._fresh().context

        context.sni_callback = hello
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Returns credentials that ask for the current files with each connection."""
        in_use = self._loaded

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal in_use
            before, in_use = in_use, self._fresh()
            return None if in_use is before else in_use.grpc()

        return grpc.dynamic_ssl_server_credentials(
            in_use.grpc(),
            newer,  # type: ignore[arg-type]  # None, for nothing new, is documented and missing from the stubs
            require_client_authentication=self._files.client_ca is not None,
        )

    def _fresh(self) -> "_Loaded":
        """What the next handshake uses: new files when there are any that can be used."""
        with self._lock:
            try:
                now = _stamp(self._files)
                if now != self._tried:
                    self._tried = now
                    self._loaded = _load(self._files)
                    self._told = ""
                    log.info("new TLS certificate", certificate=str(self._files.certificate))
            except TlsUnusable as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("new TLS files not taken; the old ones go on", cause=self._told)
            return self._loaded


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Files that fit together."""

    stamp: _Stamp
    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def grpc(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], root_certificates=self.client_ca
        )


def _load(files: TlsFiles) -> _Loaded:
    stamp = _stamp(files)
    context = _context(files)
    try:
        loaded = _Loaded(
            stamp,
            context,
            files.certificate.read_bytes(),
            files.key.read_bytes(),
            files.client_ca.read_bytes() if files.client_ca else None,
        )
    except OSError as error:
        raise TlsUnusable(f"cannot read the TLS file {error.filename}: {error.strerror}") from error
    if _stamp(files) != stamp:  # half old, half new
        raise TlsUnusable(f"{files.certificate} and its key are being replaced")
    return loaded


def _stamp(files: TlsFiles) -> _Stamp:
    try:
        found = [os.stat(path) for path in files.all]
    except OSError as error:
        raise TlsUnusable(f"cannot read the TLS file {error.filename}: {error.strerror}") from error
    return tuple((state.st_mtime_ns, state.st_ino, state.st_size) for state in found)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would skip the client's certificate, also after its authority has been taken away. TLS 1.3 resumes with
    # tickets only, of which none are given; TLS 1.2 has a cache in OpenSSL that Python cannot switch off.
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if files.client_ca else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(map(str, files.all))
        raise TlsUnusable(f"the TLS files {names} cannot be used together: {error}") from error
    return context
