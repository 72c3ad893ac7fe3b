"""The table of states: an end is an end, and every state can reach one."""

import pytest

from trainer_service.core.states import ON_WORKER, TERMINAL, TRANSITIONS, JobState, may_follow


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_the_ends() -> None:
    assert {JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAILED, JobState.GATED} == TERMINAL


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_reaches_an_end(state: JobState) -> None:
    seen, todo = set(), [state]
    while todo:
        seen.add(at := todo.pop())
        todo += TRANSITIONS[at] - seen
    assert seen & TERMINAL


def test_what_a_dead_worker_held_can_be_taken_up_again() -> None:
    for state in ON_WORKER:
        target = JobState.CANCELLED if state is JobState.CANCELLING else JobState.QUEUED
        assert may_follow(state, target)


def test_a_job_being_published_cannot_be_cancelled() -> None:
    assert not may_follow(JobState.PUBLISHING, JobState.CANCELLING)
