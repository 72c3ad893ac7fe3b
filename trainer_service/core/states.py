"""The states of a job and the legal moves between them.

Owns the table only. Who moves a job, and in which transaction, is `jobs`'s business.
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands. Values are stored in the database: renaming one needs a migration."""

    VALIDATING = "VALIDATING"
    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    EVALUATING = "EVALUATING"
    PUBLISHING = "PUBLISHING"
    SUCCEEDED = "SUCCEEDED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    GATED = "GATED"


class FailureReason(StrEnum):
    """Whose fault a failure is. What is tried again, and how often, is `verdict`'s business."""

    USER_ERROR = "USER_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"


S = JobState
# Every state that a worker holds may fall back to QUEUED: the worker died, or the service stopped.
_WORKING = {S.PREPARING, S.RUNNING, S.EVALUATING}

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    S.VALIDATING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    S.QUEUED: frozenset({S.PREPARING, S.CANCELLED, S.FAILED}),
    S.PREPARING: frozenset({S.RUNNING, S.EVALUATING, S.PUBLISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    S.RUNNING: frozenset({S.EVALUATING, S.PUBLISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    S.EVALUATING: frozenset({S.RUNNING, S.PUBLISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    # No way to CANCELLING: the version may be visible already, and "cancelled" must mean that it is not.
    S.PUBLISHING: frozenset({S.SUCCEEDED, S.GATED, S.QUEUED, S.FAILED}),
    S.CANCELLING: frozenset({S.CANCELLED}),
    S.SUCCEEDED: frozenset(),
    S.CANCELLED: frozenset(),
    S.FAILED: frozenset(),
    S.GATED: frozenset(),
}
"""From -> the states that may follow."""

TERMINAL: frozenset[JobState] = frozenset(state for state, after in TRANSITIONS.items() if not after)
"""Nothing follows; the event that reports one is the job's last."""

RESUMABLE: frozenset[JobState] = frozenset({S.FAILED, S.CANCELLED})
"""Ends that somebody may ask to go on from (`Jobs.resume`); by itself a job leaves no end."""

ON_WORKER: frozenset[JobState] = frozenset(_WORKING | {S.PUBLISHING, S.CANCELLING})
"""A worker process exists, or existed until the service died."""


def may_follow(current: JobState, new: JobState) -> bool:
    """Says whether a job may move from `current` to `new`."""
    return new in TRANSITIONS[current]
