"""Errors of the console itself; those of the services come through as `RemoteError`s."""

from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class ConsoleError(GraftError):
    """Base of this package's errors."""


class SignInNeeded(ConsoleError):
    """No session, or one that has ended."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAUTHENTICATED


class FormRefused(ConsoleError):
    """A form that did not come from a page of ours, or from one of an ended session."""

    code: ClassVar[ErrorCode] = ErrorCode.FORBIDDEN


class WrongForm(ConsoleError):
    """A field of a form that cannot be used."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class TooMany(ConsoleError):
    """Failed sign-ins from one address, or streams of one session."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class NotForThisKey(ConsoleError):
    """A page that this kind of key may not use; no page of ours leads there."""

    code: ClassVar[ErrorCode] = ErrorCode.FORBIDDEN
