"""The trainer's errors that a caller may see. What each means on a wire is `graftwork.rpc.status`'s business."""

from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class TrainerError(GraftError):
    """Base of the trainer's errors."""


class InvalidRecipe(TrainerError):
    """A recipe asks for something unknown or impossible."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class InvalidRequest(TrainerError):
    """A request other than a recipe is malformed: header missing, bad page token, reused idempotency key."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class InvalidRows(TrainerError):
    """A data set holds rows that cannot be trained on; the message names the lines, never their text."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class DatasetTooLarge(TrainerError):
    """An upload went over the service's limit."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID  # EXHAUSTED would invite a retry


class JobNotFound(TrainerError):
    """No such job; also the answer for another tenant's job."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class IllegalTransition(TrainerError):
    """The job's state does not allow what was asked."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class IdempotencyConflict(TrainerError):
    """An idempotency key came back with a different request."""

    code: ClassVar[ErrorCode] = ErrorCode.CONFLICT


class ServiceStopping(TrainerError):
    """The service is going down; the same call works after its restart."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
