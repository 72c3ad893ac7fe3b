"""What an attempt's end means for its job."""

import signal
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.job_record import Job
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.verdict import LONGEST_PAUSE, LONGEST_WAIT, Died, End, Policy, Stopped, Verdict, judge
from trainer_service.core.worker_messages import Failed, Finished, Postponed

POLICY = Policy(max_attempts=3, max_interruptions=5, backoff_seconds=2.0, micro_batch_tokens=8000)
JOB = Job(
    seq=1,
    id="j",
    tenant="acme",
    dataset="ds",
    adapter="a",
    alias="prod",
    recipe=resolve(RecipeRequest(), rows=100, fleet=Fleet())[0],
    publish_anyway=False,
    priority=0,
    state=JobState.RUNNING,
    failure_reason=None,
    message="",
    version="",
    alias_number=0,
    created_at=datetime.now(UTC),
    started_at=None,
    ended_at=None,
    owner="me",
    attempt=1,
    may_have_published=False,
    failures=0,
    interruptions=0,
    postponements=0,
    memory_failures=0,
    failed_at_step=0,
    micro_batch_tokens=None,
    last_event=1,
    base_eval_loss=0.0,
    eval_loss=0.0,
    step=0,
    total_steps=10,
    evaluated_step=-1,
    checkpoint_step=0,
    probe_outcome=None,
    probe_message="",
)
CRASH: End = Failed(reason=FailureReason.SYSTEM_ERROR, message="the worker met OSError")
KILL: End = Died(-signal.SIGKILL)
OOM: End = Failed(reason=FailureReason.OUT_OF_MEMORY, message="the device's memory is too small")
AWAY: End = Postponed(message="the store does not answer")


def after(job: Job, verdict: Verdict) -> Job:
    """The job as the verdict leaves it, at its next attempt."""
    return replace(
        job,
        attempt=job.attempt + 1,
        failed_at_step=job.checkpoint_step,
        **{
            name: getattr(verdict, name)
            for name in ("failures", "interruptions", "postponements", "memory_failures", "micro_batch_tokens")
        },
    )


def lives(end: End, most: int, job: Job = JOB) -> list[Verdict]:
    """The same end again and again, until the job is over."""
    found = []
    for _ in range(most):
        found.append(judge(job, end, POLICY))
        if found[-1].state is not JobState.QUEUED:
            break
        job = after(job, found[-1])
    return found


def test_a_callers_fault_is_not_tried_again() -> None:
    (only,) = lives(Failed(reason=FailureReason.USER_ERROR, message="line 3 is empty"), 5)
    assert (only.state, only.reason, only.message) == (JobState.FAILED, FailureReason.USER_ERROR, "line 3 is empty")


@pytest.mark.parametrize("end", [CRASH, Died(-signal.SIGSEGV), Died(1)])
def test_a_crash_is_tried_again_after_pauses_that_double(end: End) -> None:
    found = lives(end, 10)
    assert [(item.state, item.delay) for item in found] == [
        (JobState.QUEUED, 2.0),
        (JobState.QUEUED, 4.0),
        (JobState.FAILED, 0.0),
    ]
    assert found[-1].reason is FailureReason.SYSTEM_ERROR


@pytest.mark.parametrize("end", [KILL, Died(-signal.SIGTERM)])
def test_a_kill_from_outside_is_not_the_jobs_fault(end: End) -> None:
    found = lives(end, 10)
    assert [item.state for item in found] == [JobState.QUEUED] * 4 + [JobState.FAILED]
    assert {item.delay for item in found[:-1]} == {2.0}
    assert "5 times in a row from outside" in found[-1].message


def test_a_store_that_is_away_costs_no_attempt_however_long() -> None:
    found = lives(AWAY, 50)
    assert {item.state for item in found} == {JobState.QUEUED}
    assert [item.delay for item in found[:6]] == [2, 4, 8, 16, 32, LONGEST_WAIT]
    assert (found[-1].failures, found[-1].interruptions) == (0, 0)
    assert "goes on by itself" in found[0].message


@pytest.mark.parametrize("end", [OOM, Died(-signal.SIGKILL, out_of_memory=True)])
def test_too_little_memory_is_tried_once_with_a_smaller_pass(end: End) -> None:
    first, second = lives(end, 5)
    assert (first.state, first.micro_batch_tokens) == (JobState.QUEUED, 2000)
    assert (second.state, second.reason) == (JobState.FAILED, FailureReason.OUT_OF_MEMORY)
    assert "2000" in second.message


def test_a_new_checkpoint_begins_the_counts_anew() -> None:
    job = replace(JOB, failures=2, interruptions=4, postponements=9, checkpoint_step=5, failed_at_step=3)
    assert judge(job, CRASH, POLICY).failures == 1
    assert judge(job, KILL, POLICY).interruptions == 1
    assert judge(job, AWAY, POLICY).delay == 2.0
    stuck = replace(job, failed_at_step=5)
    assert judge(stuck, CRASH, POLICY).state is JobState.FAILED
    assert judge(stuck, KILL, POLICY).state is JobState.FAILED


@pytest.mark.parametrize("end", [Stopped(), Died(-signal.SIGALRM)])
def test_a_stopped_service_or_a_lost_lease_changes_no_count(end: End) -> None:
    job = replace(JOB, failures=2, interruptions=4, memory_failures=1, micro_batch_tokens=2000)
    found = judge(job, end, POLICY)
    assert found.state is JobState.QUEUED
    assert after(job, found) == replace(job, attempt=2)


@pytest.mark.parametrize("end", [CRASH, KILL, OOM, AWAY, Stopped(), Finished(state=JobState.SUCCEEDED)])
def test_a_job_that_is_being_cancelled_ends_cancelled(end: End) -> None:
    assert judge(replace(JOB, state=JobState.CANCELLING), end, POLICY).state is JobState.CANCELLED


def test_a_failure_after_publishing_began_says_so() -> None:
    job = replace(JOB, may_have_published=True, failures=2)
    assert "alias has moved" in judge(job, CRASH, POLICY).message


@given(st.lists(st.sampled_from([CRASH, KILL, OOM]), min_size=10, max_size=60), st.integers(0, 3))
def test_a_job_that_gets_nowhere_ends(ends: list[End], failures: int) -> None:
    """However kinds of failure alternate: each has its own count, and none resets another."""
    job, states = replace(JOB, failures=min(failures, 2)), []
    for end in ends:
        found = judge(job, end, POLICY)
        states.append(found.state)
        if found.state is JobState.FAILED:
            return
        assert 0 < found.delay <= LONGEST_PAUSE
        job = after(job, found)
    assert len(states) <= 3 + 5 + 2
