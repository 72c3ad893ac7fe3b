"""Jobs on both databases: gapless numbers, nothing doubled, legal moves only, watchers that miss nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.contract.jobs_database import new, numbers, step
from trainer_service.core.database import Database, open_database
from trainer_service.core.errors import (
    AttemptOver,
    DatabaseUnavailable,
    IdempotencyConflict,
    IllegalTransition,
    InvalidDatabase,
    InvalidRequest,
    JobNotFound,
    QueueFull,
)
from trainer_service.core.events import CheckpointSaved, JobEvent, Notice, NoticeLevel, StateChanged
from trainer_service.core.job_record import Job
from trainer_service.core.jobs import Jobs
from trainer_service.core.queue import FairQueue
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.verdict import Verdict
from trainer_service.core.watch import Watchers

FAILED = Verdict(JobState.FAILED, FailureReason.USER_ERROR, "m")


def running(jobs: Jobs) -> Job:
    """A job that has a worker."""
    jobs.create(new())
    claimed = FairQueue(jobs, "here").claim()
    assert claimed is not None
    return claimed


def test_a_job_is_created_queued_with_its_notices(jobs: Jobs) -> None:
    job, made = jobs.create(new(priority=3), [Notice(level=NoticeLevel.INFO, message="n")])
    assert made
    assert (job.state, job.priority) == (JobState.QUEUED, 3)
    kinds = [event.payload.kind for event in jobs.events(job, 0, 10)]
    assert kinds == ["notice", "state_changed"]
    assert jobs.get("acme", job.id) == job


def test_another_tenants_job_does_not_exist(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    with pytest.raises(JobNotFound):
        jobs.get("rival", job.id)
    with pytest.raises(JobNotFound):
        jobs.resume("rival", job.id)


def test_an_idempotency_key_makes_one_job(jobs: Jobs) -> None:
    first, made = jobs.create(new(key="k"), max_queued=1)
    again, made_again = jobs.create(new(key="k"), max_queued=1)
    assert (made, made_again, again.id) == (True, False, first.id)
    assert jobs.create(new(tenant="other", key="k"))[0].id != first.id
    with pytest.raises(IdempotencyConflict, match=first.id):
        jobs.create(new(key="k", request="another"))


def test_twins_with_one_key_make_one_job(jobs: Jobs) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(jobs.create(new(key="k"))[0].id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_a_tenants_queue_has_an_end_that_holds_exactly(jobs: Jobs) -> None:
    refused: list[QueueFull] = []

    def create() -> None:
        try:
            jobs.create(new(), max_queued=3)
        except QueueFull as error:
            refused.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert "3 jobs waiting, at most 3" in str(refused[0])
    jobs.create(new(tenant="other"), max_queued=3)


def test_numbers_have_no_gaps_under_concurrent_writers(jobs: Jobs) -> None:
    job = running(jobs)
    threads = [
        threading.Thread(
            target=lambda first=first: [
                jobs.record(job.id, 1, [step(at)], batch) for at, batch in enumerate(range(first, 80, 4))
            ]
        )
        for first in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = numbers(jobs, job)
    assert found == list(range(1, len(found) + 1))


def test_a_batch_whose_answer_was_lost_is_not_written_twice(jobs: Jobs) -> None:
    job = running(jobs)
    for batch in (1, 1, 2, 1, 2):
        jobs.record(job.id, 1, [step(batch), step(batch + 1)], batch)
    steps = [event.payload.step for event in jobs.events(job, 2, 100) if event.payload.kind == "step_done"]
    assert steps == [1, 2, 2, 3]


def test_a_worker_whose_job_was_given_away_can_say_nothing(jobs: Jobs) -> None:
    job = running(jobs)
    jobs.conclude(job.id, 1, lambda now: Verdict(JobState.QUEUED))
    with pytest.raises(AttemptOver):
        jobs.record(job.id, 1, [step(1)], 1)
    again = FairQueue(jobs, "there").claim()
    assert again is not None
    assert again.attempt == 2
    for call in (
        lambda: jobs.record(job.id, 1, [step(1)], 1),
        lambda: jobs.move(job.id, JobState.PUBLISHING, attempt=1),
        lambda: jobs.conclude(job.id, 1, lambda now: FAILED),
    ):
        with pytest.raises(AttemptOver):
            call()
    jobs.record(job.id, 2, [step(1)], 1)
    assert jobs.get("acme", job.id).step == 1


def test_a_refused_move_leaves_no_event(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    with pytest.raises(IllegalTransition, match="QUEUED and cannot become SUCCEEDED"):
        jobs.move(job.id, JobState.SUCCEEDED)
    assert numbers(jobs, job) == [1]


def test_what_may_be_published_cannot_become_cancelled(jobs: Jobs) -> None:
    """The worker moves the alias and is killed: the job waits for its next attempt, and is published already."""
    job = running(jobs)
    jobs.move(job.id, JobState.PUBLISHING, attempt=1)
    jobs.conclude(job.id, 1, lambda now: Verdict(JobState.QUEUED, message="killed"))
    with pytest.raises(IllegalTransition, match="begun to publish"):
        jobs.move(job.id, JobState.CANCELLED)
    assert FairQueue(jobs).claim() is not None
    with pytest.raises(IllegalTransition, match="begun to publish"):
        jobs.move(job.id, JobState.CANCELLING)
    assert jobs.conclude(job.id, 2, lambda now: Verdict(JobState.QUEUED)).state is JobState.QUEUED


@pytest.mark.parametrize("end", [FAILED, Verdict(JobState.CANCELLED)])
def test_a_job_that_ended_badly_is_resumed(jobs: Jobs, end: Verdict) -> None:
    job = running(jobs)
    jobs.record(job.id, 1, [step(1), CheckpointSaved(step=1)], 1)
    if end.state is JobState.CANCELLED:
        jobs.move(job.id, JobState.CANCELLING)
    ended = jobs.conclude(job.id, 1, lambda now: end)
    assert ended.ended_at is not None
    resumed = jobs.resume("acme", job.id)
    assert (resumed.state, resumed.ended_at, resumed.failures, resumed.failure_reason) == (
        JobState.QUEUED,
        None,
        0,
        None,
    )
    assert resumed.checkpoint_step == 1
    assert jobs.resume("acme", job.id) == resumed, "again is no error"
    with pytest.raises(QueueFull):
        jobs.create(new(), max_queued=1)
    again = FairQueue(jobs).claim()
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 2)
    jobs.move(job.id, JobState.PUBLISHING, attempt=2)
    jobs.conclude(job.id, 2, lambda now: Verdict(JobState.SUCCEEDED))
    with pytest.raises(IllegalTransition, match="nothing left"):
        jobs.resume("acme", job.id)
    assert numbers(jobs, job) == list(range(1, jobs.get("acme", job.id).last_event + 1))


def test_files_are_kept_of_jobs_that_may_go_on(jobs: Jobs) -> None:
    states = {}
    for state in (JobState.FAILED, JobState.SUCCEEDED, JobState.QUEUED):
        job = running(jobs)
        if state is JobState.SUCCEEDED:
            jobs.move(job.id, JobState.PUBLISHING, attempt=1)
        if state is not JobState.QUEUED:
            jobs.conclude(job.id, 1, lambda now, state=state: Verdict(state))
        states[job.id] = state
    ids = [*states, "unknown"]
    assert [states[job] for job in jobs.without_future(ids, timedelta(days=1))] == [JobState.SUCCEEDED]
    over = {states[job] for job in jobs.without_future(ids, timedelta(0))}
    assert over == {JobState.FAILED, JobState.SUCCEEDED}


def test_pages_are_newest_first_and_meet_every_job_once(jobs: Jobs) -> None:
    made = [jobs.create(new())[0].id for _ in range(5)]
    jobs.create(new(tenant="other"))
    seen, token = [], ""
    while True:
        page, token = jobs.list("acme", 2, token)
        seen += [job.id for job in page]
        if not token:
            break
    assert seen == made[::-1]
    assert len(jobs.list(None, 0, "")[0]) == 6
    with pytest.raises(InvalidRequest):
        jobs.list("acme", 2, "'; drop table jobs")


def test_the_newest_facts_are_on_the_job(jobs: Jobs) -> None:
    job = running(jobs)
    jobs.record(job.id, 1, [step(7), CheckpointSaved(step=7)], 1)
    now = jobs.get("acme", job.id)
    assert (now.step, now.total_steps, now.checkpoint_step, now.last_event) == (7, 18, 7, 4)


async def collected(events: AsyncIterator[JobEvent]) -> list[int]:
    return [event.number async for event in events]


async def test_watchers_miss_nothing_and_double_nothing(database: Database) -> None:
    watchers = Watchers(asyncio.get_running_loop())
    jobs = Jobs(database, watchers.changed)
    job, _ = jobs.create(new())
    early = asyncio.create_task(collected(watchers.follow(jobs, job, 0)))

    def work() -> None:
        FairQueue(jobs).claim()
        for at in range(30):
            jobs.record(job.id, 1, [step(at)], at + 1)
        jobs.conclude(job.id, 1, lambda now: FAILED)

    writer = asyncio.create_task(asyncio.to_thread(work))
    late = asyncio.create_task(collected(watchers.follow(jobs, job, 1)))
    async with asyncio.timeout(20):
        await writer
        assert await early == list(range(1, 34))
        assert await late == list(range(2, 34))
        over = await asyncio.to_thread(jobs.get, "acme", job.id)
        assert await collected(watchers.follow(jobs, over, 30)) == [31, 32, 33]
        assert await collected(watchers.follow(jobs, over, 33)) == []
        with pytest.raises(InvalidRequest):
            await collected(watchers.follow(jobs, over, 34))
    last = jobs.events(over, 32, 1)[0].payload
    assert isinstance(last, StateChanged)
    assert last.state is JobState.FAILED


def test_an_unusable_url_is_said_without_the_password() -> None:
    with pytest.raises(DatabaseUnavailable) as away:
        open_database("postgresql://someone:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(away.value)
    for url in ("nonsense", "mysql://a@b/c"):
        with pytest.raises(InvalidDatabase):
            open_database(url)
