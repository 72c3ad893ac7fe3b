"""The trainer's errors that a caller may see. What each means on a wire is `graftwork.rpc.status`'s business."""

from collections.abc import Sequence
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError
from trainer_service.core.findings import Finding, Level

_SHOWN_ERRORS = 8  # in one line; the findings themselves hold all


class TrainerError(GraftError):
    """Base of the trainer's errors."""


class InvalidRecipe(TrainerError):
    """A recipe asks for something unknown or impossible."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class DoesNotFit(TrainerError):
    """The device is too small for a job; the message says what would make it fit."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class NotEstimable(TrainerError):
    """The backbone says too little of itself for a prediction."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class InvalidRequest(TrainerError):
    """A request other than a recipe is malformed: header missing, bad page token, reused idempotency key."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class InvalidRows(TrainerError):
    """A data set holds rows that cannot be trained on; the message names the lines, never their text.

    Attributes:
        rows: of the data set; wrong_rows of them have errors.
        findings: all of them, errors first.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INVALID

    def __init__(self, rows: int, wrong: int, findings: Sequence[Finding]) -> None:
        self.rows, self.wrong_rows, self.findings = rows, wrong, tuple(findings)
        errors = [finding for finding in self.findings if finding.level is Level.ERROR]
        counted = f"{wrong} of {rows} rows are wrong; " if wrong else ""
        more = f"; and {len(errors) - _SHOWN_ERRORS} more kinds of error" if len(errors) > _SHOWN_ERRORS else ""
        super().__init__(counted + "; ".join(f"{it.where}{it.message}" for it in errors[:_SHOWN_ERRORS]) + more)


class InspectionFailed(TrainerError):
    """The process that looks through a data set ended without an answer."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID  # the same file would end it again


class DatasetTooLarge(TrainerError):
    """An upload went over the service's limit."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID  # EXHAUSTED would invite a retry


class JobNotFound(TrainerError):
    """No such job; also the answer for another tenant's job."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class IllegalTransition(TrainerError):
    """The job's state does not allow what was asked."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class QueueFull(TrainerError):
    """The tenant has as many jobs waiting as it may have."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


class AttemptOver(TrainerError):
    """A worker's attempt is no longer the job's: another service took the job over, or it has ended."""

    code: ClassVar[ErrorCode] = ErrorCode.CONFLICT


class DatabaseUnavailable(TrainerError):
    """The jobs' database does not answer; the same call may succeed later."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class MergeRefused(TrainerError):
    """The backbone or the adapter cannot be merged, or the merged weights do not answer as the adapter does."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class MergeInterrupted(TrainerError):
    """A merge did not come to its end; the same call may."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class NoRoom(TrainerError):
    """The trainer's disk is too full."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class InvalidDatabase(TrainerError):
    """The database's URL names none that could be used."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class IdempotencyConflict(TrainerError):
    """An idempotency key came back with a different request."""

    code: ClassVar[ErrorCode] = ErrorCode.CONFLICT


class ServiceStopping(TrainerError):
    """The service is going down; the same call works after its restart."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
