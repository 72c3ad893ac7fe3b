"""The serving core's errors. Owns the hierarchy; `graftwork.rpc.status` owns what a code means on a wire."""

from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class ServingError(GraftError):
    """Base of what the serving core raises on purpose."""


class InvalidRequest(ServingError):
    """A field that cannot be right; the message names it.

    Attributes:
        field: its name, where a transport has a place of its own for it; else empty.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INVALID

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


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
    """A budget (disk, host memory) cannot take the adapter now: everything in it is in use, or it is larger than the budget."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class RateLimited(ServingError):
    """More requests or tokens a minute than the tenant may use."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(ServingError):
    """More requests wait than the tenant, or this service, may have waiting."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Stopping(ServingError):
    """The service is about to end: it takes no requests again."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class FastPathOff(ServingError):
    """A promotion on a service that has no room for merged engines."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class NotMerged(ServingError):
    """A demotion of a version that is not merged here."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class MergedUnlike(ServingError):
    """A merged engine answers otherwise than the adapter does."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class MergedSlow(ServingError):
    """A merged engine took longer to come up than this service waits."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class NoRoomForMerged(ServingError):
    """The budget of merged engines cannot take one more now."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class DeadlinePassed(ServingError):
    """The caller's time was over while the request waited or ran."""

    code: ClassVar[ErrorCode] = ErrorCode.DEADLINE


class Draining(ServingError):
    """The service takes no new requests: it stops, or an operator drains it."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
    retry_after_seconds = 1.0  # another node takes it at once; where there is one only, it comes back after a while
