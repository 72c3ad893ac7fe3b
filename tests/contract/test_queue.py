"""Turns on both databases: fair across tenants, by priority inside one, limits that hold exactly, no job given twice."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.jobs_database import new
from trainer_service.core.database import open_database
from trainer_service.core.job_record import Job, naive_now
from trainer_service.core.jobs import Jobs
from trainer_service.core.queue import LOOK_AGAIN_S, FairQueue, pick
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.tenant_limits import NONE_AT_ALL
from trainer_service.core.verdict import LONGEST_PAUSE, Verdict

FAILED = Verdict(JobState.FAILED, FailureReason.USER_ERROR)


def test_turns_go_round_the_tenants(jobs: Jobs) -> None:
    for _ in range(3):
        jobs.create(new(tenant="greedy"))
    jobs.create(new(tenant="modest"))
    jobs.create(new(tenant="late"))
    queue, order = FairQueue(jobs), []
    while (job := queue.claim()) is not None:
        order.append(job.tenant)
        jobs.conclude(job.id, 1, lambda now: FAILED)
    assert order == ["greedy", "modest", "late", "greedy", "greedy"]


def test_a_priority_moves_a_job_past_its_own_tenants_only(jobs: Jobs) -> None:
    plain = [jobs.create(new(tenant="acme"))[0].id for _ in range(2)]
    urgent = jobs.create(new(tenant="acme", priority=100))[0].id
    other = jobs.create(new(tenant="other", priority=-100))[0].id
    queue = FairQueue(jobs)
    order = [job.id for _ in range(4) if (job := queue.claim()) is not None]
    assert order == [urgent, other, *plain]


@pytest.mark.parametrize("limit", [1, 2, 0, NONE_AT_ALL])
def test_a_tenant_runs_no_more_jobs_than_it_may(jobs: Jobs, limit: int) -> None:
    for _ in range(3):
        jobs.create(new())
    jobs.create(new(tenant="other"))
    asked: list[str] = []

    def may_run(tenant: str) -> int:
        asked.append(tenant)
        return limit if tenant == "acme" else 0

    queue = FairQueue(jobs, "here", may_run)
    started = []
    while (job := queue.claim()) is not None:
        started.append(job.tenant)
    expected = {1: 1, 2: 2, 0: 3, NONE_AT_ALL: 0}[limit]
    assert Counter(started) == {"other": 1} | ({"acme": expected} if expected else {})
    assert set(asked) == {"acme", "other"}
    if expected < 3:  # nothing wakes us when an operator raises the limit
        assert queue.seconds_to_next(naive_now()) == LOOK_AGAIN_S


def test_a_backed_off_job_waits_and_says_how_long(jobs: Jobs) -> None:
    jobs.create(new())
    queue = FairQueue(jobs)
    assert queue.seconds_to_next(naive_now()) == LOOK_AGAIN_S
    job = queue.claim()
    assert job is not None
    assert queue.seconds_to_next(naive_now()) is None
    jobs.conclude(job.id, 1, lambda now: Verdict(JobState.QUEUED, delay=10, failures=1))
    assert queue.claim() is None
    assert 5 < (queue.seconds_to_next(naive_now()) or 0) <= 10
    assert jobs.get("acme", job.id).failures == 1


def test_a_pause_that_a_jumping_clock_made_long_is_over(jobs: Jobs) -> None:
    """It was given while the clock was ahead; after that went back the job would wait for an hour, or for days."""
    queue = FairQueue(jobs)
    for delay, waits in ((LONGEST_PAUSE - 1, True), (LONGEST_PAUSE + 3600, False)):
        job, _ = jobs.create(new())
        assert queue.claim() is not None
        jobs.conclude(job.id, 1, lambda now, delay=delay: Verdict(JobState.QUEUED, delay=delay))  # type: ignore[misc]
        assert (queue.claim() is None) == waits


def test_a_job_whose_time_came_after_the_claim_looked_is_not_left_for_later(jobs: Jobs) -> None:
    jobs.create(new())
    queue = FairQueue(jobs)
    job = queue.claim()
    assert job is not None
    claimed_at = naive_now()
    jobs.conclude(job.id, 1, lambda now: Verdict(JobState.QUEUED, delay=1e-6, failures=1))
    concluded_at = naive_now()
    while naive_now() <= concluded_at + timedelta(milliseconds=1):
        pass  # until the job's time has surely come
    assert queue.seconds_to_next(claimed_at) == 0


def test_services_that_claim_at_once_share_the_jobs_out(url: str) -> None:
    """Each with its own connections, as processes have them; a tenant's limit holds over all of them."""
    first = open_database(url)
    for tenant in ("acme", "other"):
        for _ in range(6):
            Jobs(first).create(new(tenant=tenant))
    databases = [open_database(url) for _ in range(4)]
    claimed: list[tuple[str, Job]] = []

    def claim(owner: str, jobs: Jobs) -> None:
        queue = FairQueue(jobs, owner, lambda tenant: 4)
        while (job := queue.claim()) is not None:
            claimed.append((owner, job))

    threads = [
        threading.Thread(target=claim, args=(f"service-{at}", Jobs(database))) for at, database in enumerate(databases)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for _, job in claimed}) == len(claimed) == 8
    assert Counter(job.tenant for _, job in claimed) == {"acme": 4, "other": 4}
    assert all(job.owner == owner for owner, job in claimed)
    for database in (first, *databases):
        database.close()


@given(
    waiting=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 100)),
    running=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    served=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50)),
)
def test_nobody_with_fewer_running_jobs_is_passed_over(
    waiting: dict[str, int], running: dict[str, int], served: dict[str, int]
) -> None:
    chosen = pick(waiting, running, served)
    assert (chosen is None) == (not waiting)
    for other in waiting:
        assert chosen is not None
        assert (running.get(chosen, 0), served.get(chosen, 0)) <= (running.get(other, 0), served.get(other, 0))
