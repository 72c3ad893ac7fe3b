"""What a failed call raises: one class per error code, made from the table that the servers use."""

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc
import grpc.aio

from graftwork import __version__
from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.status import REQUEST_ID_KEY, RETRY_AFTER_KEY, code_of


class RemoteError(GraftError):
    """A call that a service refused or could not answer; subclasses say why.

    Attributes:
        request_id: names the call in the service's log; empty when the call never arrived.
        details: what the service sent along, by the keys of `graftwork.rpc.status` that end with -bin.
        retry_after_seconds: in how many seconds the same call may succeed, where the service said so.
    """

    def __init__(
        self,
        message: str,
        request_id: str = "",
        details: Mapping[str, bytes] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.details: Mapping[str, bytes] = details or {}


class RemoteInvalid(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class RemoteUnauthenticated(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.UNAUTHENTICATED


class RemoteForbidden(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.FORBIDDEN


class RemoteNotFound(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class RemoteAlreadyExists(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.ALREADY_EXISTS


class RemoteConflict(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.CONFLICT


class RemotePrecondition(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class RemoteExhausted(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class RemoteUnavailable(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class RemoteCorrupt(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.CORRUPT


class RemoteCancelled(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.CANCELLED


class RemoteDeadline(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.DEADLINE


class RemoteInternal(RemoteError):
    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL


BY_CODE: dict[ErrorCode, type[RemoteError]] = {kind.code: kind for kind in RemoteError.__subclasses__()}


def from_call(error: Any, target: str) -> RemoteError:
    """Turns a failed gRPC call into our error.

    Args:
        error: the `grpc.RpcError` of the call.
        target: the service's address, for the message when nobody answered there.
    """
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return RemoteInternal(f"the call to {target} failed: {error}")
    code = code_of(error.code())
    sent = dict(error.trailing_metadata() or ())
    trailing = {str(key): str(value) for key, value in sent.items() if not isinstance(value, bytes)}
    binary = {str(key): value for key, value in sent.items() if isinstance(value, bytes)}
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # no call of ours answers that: the service does not have it
        return RemotePrecondition(
            f"the service at {target} does not know this call: it is of another version than this client "
            f"({__version__}), or another kind of service; install the same version on both sides"
        )
    if code is ErrorCode.UNAVAILABLE and REQUEST_ID_KEY not in trailing:
        details = f"{_away(target, details)}  [{details}]"
    return BY_CODE[code](details, trailing.get(REQUEST_ID_KEY, ""), binary, _seconds(trailing.get(RETRY_AFTER_KEY, "")))


def _away(target: str, details: str) -> str:
    """Says why nobody answered, and what to do, from what gRPC tells of its attempt to connect."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"the certificate of {target} is not signed by the authority that this client trusts, or is for another name: "
            f"name the file of the one that signed it (GRAFT_TLS_CA; the console's own: GRAFT_CONSOLE_TLS_CA)"
        )
    if "failed to connect" in details and "Socket closed" in details:  # accepted, and ended before the first answer
        return (
            f"{target} closes connections before it answers: where it speaks TLS, name its authority's file (GRAFT_TLS_CA; the "
            f"console's own: GRAFT_CONSOLE_TLS_CA), and where it asks for a client's certificate, one that its authority "
            f"signed (GRAFT_TLS_CERTIFICATE and GRAFT_TLS_KEY)"
        )
    return f"no service answers at {target}: is it up? (`graft up`, `graft status`)"


def _seconds(milliseconds: str) -> float | None:
    """Reads the retry time; None for one that is absent or that no service of ours would write."""
    return int(milliseconds) / 1e3 if milliseconds.isascii() and milliseconds.isdecimal() else None
