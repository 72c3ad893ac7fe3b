"""Errors in OpenAI's shape, from the one table of statuses.

Owns the shape, and what each kind of error is called there. Does not own what a code means (`graftwork.rpc.status`).
"""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.status import REQUEST_ID_KEY, STATUS
from graftwork.surroundings import named
from serving_service.core.errors import InvalidRequest

MAX_MESSAGE_CHARS = 1000

TYPES: dict[ErrorCode, str] = {
    ErrorCode.INVALID: "invalid_request_error",
    ErrorCode.UNAUTHENTICATED: "authentication_error",
    ErrorCode.FORBIDDEN: "permission_error",
    ErrorCode.NOT_FOUND: "not_found_error",
    ErrorCode.ALREADY_EXISTS: "conflict_error",
    ErrorCode.CONFLICT: "conflict_error",
    ErrorCode.PRECONDITION: "invalid_request_error",
    ErrorCode.EXHAUSTED: "rate_limit_error",
    ErrorCode.UNAVAILABLE: "service_unavailable_error",
    ErrorCode.CORRUPT: "server_error",
    ErrorCode.CANCELLED: "cancelled_error",
    ErrorCode.DEADLINE: "timeout_error",
    ErrorCode.INTERNAL: "server_error",
}
"""What OpenAI calls them; a test proves that it is total."""


class BodyTooLarge(InvalidRequest):
    """More bytes than are taken. The one error with a status of its own: HTTP has it, the table has not."""


class NoSuchRoute(GraftError):
    """A path, or a method on it, that this API does not have."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class ClientGone(GraftError):
    """The client closed the connection before there was an answer; nobody reads this."""

    code: ClassVar[ErrorCode] = ErrorCode.CANCELLED


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it goes out."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def failure_of(error: Exception, request_id: str) -> Failure:
    """Returns what a caller sees of an error; of one that is not ours only a fixed text and the request's id."""
    found = named(error)
    error = found if isinstance(found, Exception) else error
    known = isinstance(error, GraftError)
    code = error.code if isinstance(error, GraftError) else ErrorCode.INTERNAL
    text = str(error) if known else f"internal error; the service's log has the cause under request id {request_id}"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if isinstance(error, BodyTooLarge) else STATUS[code].http
    headers = {REQUEST_ID_KEY: request_id}
    wait = getattr(error, "retry_after_seconds", None)
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    inner = {
        "message": text if len(text) <= MAX_MESSAGE_CHARS else text[:MAX_MESSAGE_CHARS] + "...",
        "type": TYPES[code],
        "param": getattr(error, "field", "") or None,
        "code": code.value,
    }
    return Failure(int(status), {"error": inner}, headers)
