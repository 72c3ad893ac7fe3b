"""Failures of the machine that a service can name: a full disk, a folder that it may not use.

They reach handlers as `OSError` from anywhere; unnamed they would be an 'internal error', whose cause only the log has. Owns
the translation. Paths stay in the log: a tenant has no use for them.
"""

import errno
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class DiskFull(GraftError):
    """No space left where the service works."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class NotPermitted(GraftError):
    """The service's user may not read or write where the service works."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


def named(error: BaseException) -> BaseException:
    """Returns our error for what the machine refused, and any other exception as it is."""
    if isinstance(error, GraftError):
        return error
    cause: BaseException | None = error
    seen = set[
        int
    ]()  # an exception that is kept and raised again may be its own cause: without this, the loop would not end
    while cause is not None and not isinstance(cause, OSError) and id(cause) not in seen:
        seen.add(id(cause))
        cause = cause.__cause__
    if not isinstance(cause, OSError):
        return error
    if cause.errno in _FULL:
        return DiskFull(
            "the service's disk is full; nothing was kept of this: free space there (`graft config show` names the folders, "
            "`graft store gc` and the disk budget make room), then do it again"
        )
    if cause.errno in _NOT_ALLOWED:
        return NotPermitted(
            f"the service may not use its own folders ({cause.strerror}); its operator has to give its user the right to"
        )
    return error
