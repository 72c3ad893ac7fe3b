"""The root of every error that Graftwork means to show somebody.

Owns the closed list of error codes. Does not own what a code means on a wire: `graftwork.rpc.status` maps each code
to a gRPC status, an HTTP status and 'retry or not'. Each package keeps its own small hierarchy below `GraftError`.

To add an error: subclass the package's base error, set `code`, and write a message that says what happened, to which
id, and what to do. To add a code: add it here and to the table in `graftwork.rpc.status` (a test fails until both agree).
"""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """What kind of thing went wrong, independent of any transport."""

    INVALID = "invalid"
    """The request is wrong in itself; repeating it cannot help."""
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    """The caller is known and may not do this at all (a tenant's key on an operator's call)."""
    NOT_FOUND = "not_found"
    """Also the answer for anything of another tenant."""
    ALREADY_EXISTS = "already_exists"
    CONFLICT = "conflict"
    """Lost a race for a numbered record; read the current one and try again."""
    PRECONDITION = "precondition"
    """The request is fine, the system's state is not (in use, disabled, wrong backbone)."""
    EXHAUSTED = "exhausted"
    """A limit of the tenant or of the node."""
    UNAVAILABLE = "unavailable"
    """Store, engine or service out of reach for now."""
    CORRUPT = "corrupt"
    """Stored bytes do not match their digest."""
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    INTERNAL = "internal"


class GraftError(Exception):
    """Base of all errors whose message may be shown to the caller.

    Attributes:
        code: the kind of error; decides the status on the wire.
        retry_after_seconds: when the same call may succeed, where that is known.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    retry_after_seconds: float | None = None
