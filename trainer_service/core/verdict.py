"""What an attempt's end means for its job: an end of its own, or another attempt, and when.

Pure. Owns the rules of trying again. Counts are of attempts in a row: a checkpoint that is newer than at the last
failure begins them anew, so that a job of days does not die of three bad hours.

- the caller's fault: FAILED at once; the same would happen again.
- memory too small: once more with a quarter of the rows in a pass and the same rows in a step, so with the same
  result.
- the store away: waits as long as it takes.
- ended from outside (`kill -9`, a machine that takes its memory back): the job's own work is not in doubt, so it goes
  on after a short pause; the limit is there for a killer that nobody can see.
- anything else: a few more times, after pauses that double.
"""

import signal
from dataclasses import dataclass
from datetime import timedelta

from trainer_service.core.job_record import Job
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.worker_messages import Failed, Finished, Postponed

LONGEST_PAUSE = 300.0
"""Seconds; where pauses stop doubling."""
LONGEST_WAIT = 60.0
"""Seconds between two looks whether the store is back."""
MEMORY_CUT = 4
"""What a micro-batch is divided by after the memory was too small: there is one more try, so it is a large step."""
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is."""

    max_running: int = 1
    max_attempts: int = 3
    """Attempts in a row that may end in a SYSTEM_ERROR before the job does."""
    max_interruptions: int = 20
    """Attempts in a row that may be ended from outside."""
    backoff_seconds: float = 2.0
    """Before the second attempt; doubles with each one."""
    heartbeat_timeout: float = 60.0
    """Seconds without a message after which a worker counts as hung."""
    kill_after: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""
    micro_batch_tokens: int = 8192
    """What a worker takes that is not told less."""
    keep_checkpoints: timedelta = timedelta(days=7)
    """How long a job that failed or was cancelled can be resumed where it was."""


@dataclass(frozen=True)
class Died:
    """A worker ended without a last message."""

    status: int
    """Exit status; below 0: minus the signal's number."""
    out_of_memory: bool = False
    """The kernel's out-of-memory killer was seen at work."""


@dataclass(frozen=True)
class Stopped:
    """The service that ran the worker stops."""


End = Finished | Failed | Postponed | Died | Stopped


@dataclass(frozen=True)
class Verdict:
    """Where the job goes, and its counts from now on."""

    state: JobState
    reason: FailureReason | None = None
    message: str = ""
    delay: float = 0.0
    """Seconds before a QUEUED job may start again."""
    failures: int = 0
    interruptions: int = 0
    postponements: int = 0
    memory_failures: int = 0
    micro_batch_tokens: int | None = None


def judge(job: Job, end: End, policy: Policy) -> Verdict:
    """Returns what becomes of a job.

    Args:
        job: as of now, with the counts of earlier attempts.
        end: of this attempt.
        policy: limits and pauses.
    """
    if job.state == JobState.CANCELLING:
        return Verdict(JobState.CANCELLED)
    if isinstance(end, Finished):
        return Verdict(end.state, message=end.message)
    if isinstance(end, Stopped):
        return _again(job, "the service was stopped", 0.0)
    if isinstance(end, Postponed):
        waits = 0 if _got_on(job) else job.postponements
        pause = min(LONGEST_WAIT, policy.backoff_seconds * 2**waits)
        return _again(job, f"{end.message}; the job waits and goes on by itself", pause, postponements=waits + 1)
    if isinstance(end, Died):
        return _after_death(job, end, policy)
    if end.reason == FailureReason.OUT_OF_MEMORY:
        return _after_memory(job, end.message, policy)
    if end.reason == FailureReason.USER_ERROR:
        return _failed(job, end.reason, end.message)
    return _after_failure(job, end.message, policy)


def _after_death(job: Job, end: Died, policy: Policy) -> Verdict:
    if end.out_of_memory:
        return _after_memory(job, "the kernel's out-of-memory killer ended the worker", policy)
    if end.status == -signal.SIGALRM:
        return _again(
            job, "the service lost its lease on the job (its database did not answer)", policy.backoff_seconds
        )
    how = f"by signal {-end.status}" if end.status < 0 else f"with status {end.status}"
    if end.status not in _FROM_OUTSIDE:
        return _after_failure(job, f"the worker ended {how}", policy)
    interruptions = 1 if _got_on(job) else job.interruptions + 1
    if interruptions >= policy.max_interruptions:
        message = f"the worker was ended {how} {interruptions} times in a row from outside; look for who does that"
        return _failed(job, FailureReason.SYSTEM_ERROR, message)
    message = f"attempt {job.attempt}: the worker was ended {how} from outside; going on"
    return _again(job, message, policy.backoff_seconds, interruptions=interruptions)


def _after_failure(job: Job, message: str, policy: Policy) -> Verdict:
    failures = 1 if _got_on(job) else job.failures + 1
    if failures >= policy.max_attempts:
        return _failed(job, FailureReason.SYSTEM_ERROR, message)
    pause = min(LONGEST_PAUSE, policy.backoff_seconds * 2 ** (failures - 1))
    return _again(job, f"attempt {job.attempt} failed: {message}; trying again", pause, failures=failures)


def _after_memory(job: Job, message: str, policy: Policy) -> Verdict:
    now = job.micro_batch_tokens or policy.micro_batch_tokens
    if job.memory_failures:
        message += f", also with {now} tokens a pass; lower max_length, or ask for bits=4 or gradient_checkpointing"
        return _failed(job, FailureReason.OUT_OF_MEMORY, message)
    smaller = max(1, now // MEMORY_CUT)
    message += f"; trying once more with {smaller} tokens a pass instead of {now}, and as many rows a step"
    return _again(job, message, policy.backoff_seconds, memory_failures=1, micro_batch_tokens=smaller)


def _got_on(job: Job) -> bool:
    return job.checkpoint_step > job.failed_at_step


def _again(
    job: Job,
    message: str,
    delay: float,
    *,
    failures: int | None = None,
    interruptions: int | None = None,
    postponements: int | None = None,
    memory_failures: int | None = None,
    micro_batch_tokens: int | None = None,
) -> Verdict:
    """QUEUED, with the counts that are not given as they are."""
    return Verdict(
        JobState.QUEUED,
        message=message,
        delay=delay,
        failures=job.failures if failures is None else failures,
        interruptions=job.interruptions if interruptions is None else interruptions,
        postponements=job.postponements if postponements is None else postponements,
        memory_failures=job.memory_failures if memory_failures is None else memory_failures,
        micro_batch_tokens=micro_batch_tokens or job.micro_batch_tokens,
    )


def _failed(job: Job, reason: FailureReason, message: str) -> Verdict:
    if job.may_have_published:
        message += "; it had begun to publish: `graft adapter history` tells whether its alias has moved"
    return Verdict(JobState.FAILED, reason, message, micro_batch_tokens=job.micro_batch_tokens)
