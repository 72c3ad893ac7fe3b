"""The states of a training job, why one fails, and how its version was probed."""

from enum import StrEnum

from graftwork.sdk.reading import read_enum
from graftwork.v1 import trainer_pb2 as pb


class JobState(StrEnum):
    """Where a job is. `unspecified` also stands for a state that a newer service knows and this SDK does not."""

    UNSPECIFIED = "unspecified"
    VALIDATING = "validating"
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    GATED = "gated"
    """No better than the base, or the probe failed: the version is kept, no alias moves."""

    @property
    def is_final(self) -> bool:
        """Nothing more happens, unless the job is resumed."""
        return self in (JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAILED, JobState.GATED)


class FailureReason(StrEnum):
    """Who can mend it."""

    UNSPECIFIED = "unspecified"
    USER_ERROR = "user_error"
    SYSTEM_ERROR = "system_error"
    OUT_OF_MEMORY = "out_of_memory"


class ProbeOutcome(StrEnum):
    """How the published version answered in the serving service, before its alias moved."""

    UNSPECIFIED = "unspecified"
    """Not yet, or no alias was to move."""
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


def read_state(value: int) -> JobState:
    return read_enum(JobState, pb.JobState, value, "JOB_STATE_")


def read_reason(value: int) -> FailureReason | None:
    """None for a job that did not fail."""
    return read_enum(FailureReason, pb.FailureReason, value, "FAILURE_REASON_") if value else None
