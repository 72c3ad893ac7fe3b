"""The serving core's errors. Owns the hierarchy; `graftwork.rpc.status` owns what a code means on a wire."""

from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class ServingError(GraftError):
    """Base of what the serving core raises on purpose."""


class InvalidRequest(ServingError):
    """A field that cannot be right; the message names it."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class WrongBackbone(ServingError):
    """The adapter was trained for another backbone than this service runs."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class AdapterUnfit(ServingError):
    """The adapter needs more than this fleet gives (rank)."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class Untrusted(ServingError):
    """This service serves signed versions only, and no key that it trusts has signed this one."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class InUse(ServingError):
    """An eviction while requests use the adapter."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class NotResident(ServingError):
    """Nothing of that adapter version is held here."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class CacheFull(ServingError):
    """The disk budget cannot take the adapter now: everything in it is in use, or it is larger than the budget."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class Draining(ServingError):
    """The service is stopping and takes no new requests."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
