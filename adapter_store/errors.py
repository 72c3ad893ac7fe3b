"""The adapter store's errors.

Owns the hierarchy below `StoreError`; each class sets the code that decides the status on a wire. Does not own that
mapping (`graftwork.rpc.status`). Messages name ids, never object keys' secrets or file contents.
"""

from graftwork.errors import ErrorCode, GraftError


class StoreError(GraftError):
    """Base of everything the store raises on purpose."""


class InvalidName(StoreError):
    """An id, resource name or page token that cannot be one."""

    code = ErrorCode.INVALID


class InvalidAdapter(StoreError):
    """An adapter folder that fails a check at the door; the message says which and what to do."""

    code = ErrorCode.INVALID


class InvalidBase(StoreError):
    """A backbone folder without what an adapter could be checked against."""

    code = ErrorCode.INVALID


class InvalidDataset(StoreError):
    """A data-set file outside the limits, or with a format that the store does not keep."""

    code = ErrorCode.INVALID


class InvalidLimit(StoreError):
    """A tenant's weight or limit outside of what it may be."""

    code = ErrorCode.INVALID


class InvalidSplit(StoreError):
    """A split of an alias with too few or too many versions, or with a weight that is none."""

    code = ErrorCode.INVALID


class InvalidRoute(StoreError):
    """A route of serving that there is not."""

    code = ErrorCode.INVALID


class InvalidMerged(StoreError):
    """A folder that cannot be merged weights."""

    code = ErrorCode.INVALID


class InvalidSignature(StoreError):
    """A signature that does not fit the manifest that it is said to be over."""

    code = ErrorCode.INVALID


class InvalidRequestId(StoreError):
    """A request_id that is too long, or no printable text."""

    code = ErrorCode.INVALID


class NotFound(StoreError):
    """Nothing there; also the answer for anything of another tenant."""

    code = ErrorCode.NOT_FOUND


class AlreadyExists(StoreError):
    code = ErrorCode.ALREADY_EXISTS


class VersionConflict(StoreError):
    """Somebody else wrote the next record of a numbered log first.

    Attributes:
        current: number of the record that is current now.
    """

    code = ErrorCode.CONFLICT

    def __init__(self, message: str, current: int) -> None:
        super().__init__(message)
        self.current = current


class RequestIdReused(StoreError):
    """A request_id that came with another request before."""

    code = ErrorCode.CONFLICT


class InUse(StoreError):
    """What should be deleted is what an alias points at."""

    code = ErrorCode.PRECONDITION


class BeingPurged(StoreError):
    """Garbage collection is removing what should come back; it can be published again once that is done."""

    code = ErrorCode.PRECONDITION


class NothingBefore(StoreError):
    """A roll-back of an alias that has pointed at no other version that is still there."""

    code = ErrorCode.PRECONDITION


class CopyRefused(StoreError):
    """A copy's destination holds what the source contradicts, or is the source itself; nothing may be written over."""

    code = ErrorCode.PRECONDITION


class CorruptBlob(StoreError):
    """Stored bytes do not have the size or the sha256 that they should have."""

    code = ErrorCode.CORRUPT


class CorruptRecord(StoreError):
    """A manifest or log record that does not parse, or whose checksum or identity does not hold."""

    code = ErrorCode.CORRUPT


class InvalidKey(StoreError):
    """An API key that is malformed, unknown or revoked. One message for all three, so that guessing learns nothing."""

    code = ErrorCode.UNAUTHENTICATED


class TenantDisabled(StoreError):
    """The key is good, its tenant is switched off."""

    code = ErrorCode.FORBIDDEN


class StoreUnavailable(StoreError):
    """The object store did not answer, or answered with a failure of its own; the same call may succeed later."""

    code = ErrorCode.UNAVAILABLE


class StoreMisconfigured(StoreError):
    """No such bucket, refused credentials, an address that cannot be one: repeating does not help, an operator must."""

    code = ErrorCode.PRECONDITION


class UnsafeBackend(StoreError):
    """The object store overwrites where it was asked to create if absent; aliases and tenants would lose records."""

    code = ErrorCode.PRECONDITION
