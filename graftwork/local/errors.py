"""Errors of running Graftwork on this machine."""

from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class LocalError(GraftError):
    """Base of this package's errors."""


class AlreadyRunning(LocalError):
    """Another `graft up` holds this home."""

    code: ClassVar[ErrorCode] = ErrorCode.ALREADY_EXISTS


class NotRunning(LocalError):
    """No services where a command looked for them."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class StartFailed(LocalError):
    """A service ended before it was ready; its log says why."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class CareFailed(LocalError):
    """The store's care could not do its work."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
