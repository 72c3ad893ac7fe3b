"""What each error code means on the wire, and whether repeating the call can help.

The only such table; servers and clients both read it, and a test proves that it covers every `ErrorCode`.
"""

from dataclasses import dataclass
from http import HTTPStatus

import grpc

from graftwork.errors import ErrorCode

REQUEST_ID_KEY = "x-request-id"
"""Trailing metadata of every failed call: names it in the service's log."""
ERROR_CODE_KEY = "graft-error-code"
"""Trailing metadata of every failed call: the `ErrorCode`'s value."""
RETRY_AFTER_KEY = "retry-after-ms"
"""Trailing metadata of a refused call that may succeed later: in how many milliseconds, a whole number of at least 1."""
FINDINGS_KEY = "graft-findings-bin"
"""Trailing metadata of a refused data set: a serialized `DatasetReport`, its findings cut to what metadata may hold."""


@dataclass(frozen=True, slots=True)
class WireStatus:
    """One row of the table.

    Attributes:
        grpc: status of a gRPC call.
        http: status of an HTTP answer.
        retry: the same call may succeed later without the caller changing anything.
    """

    grpc: grpc.StatusCode
    http: int
    retry: bool = False


STATUS: dict[ErrorCode, WireStatus] = {
    ErrorCode.INVALID: WireStatus(grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    ErrorCode.UNAUTHENTICATED: WireStatus(grpc.StatusCode.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED),
    ErrorCode.FORBIDDEN: WireStatus(grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN),
    ErrorCode.NOT_FOUND: WireStatus(grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND),
    ErrorCode.ALREADY_EXISTS: WireStatus(grpc.StatusCode.ALREADY_EXISTS, HTTPStatus.CONFLICT),
    # Not retried blindly: the caller has to look at the current record first.
    ErrorCode.CONFLICT: WireStatus(grpc.StatusCode.ABORTED, HTTPStatus.CONFLICT),
    ErrorCode.PRECONDITION: WireStatus(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.PRECONDITION_FAILED),
    ErrorCode.EXHAUSTED: WireStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.TOO_MANY_REQUESTS, retry=True),
    ErrorCode.UNAVAILABLE: WireStatus(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, retry=True),
    ErrorCode.CORRUPT: WireStatus(grpc.StatusCode.DATA_LOSS, HTTPStatus.INTERNAL_SERVER_ERROR),
    ErrorCode.CANCELLED: WireStatus(grpc.StatusCode.CANCELLED, 499),
    ErrorCode.DEADLINE: WireStatus(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT),
    ErrorCode.INTERNAL: WireStatus(grpc.StatusCode.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR),
}

_BY_GRPC = {row.grpc: code for code, row in STATUS.items()}


def code_of(status: grpc.StatusCode) -> ErrorCode:
    """Returns the error code that a client should see for a gRPC status; INTERNAL for one that no row names."""
    return _BY_GRPC.get(status, ErrorCode.INTERNAL)
