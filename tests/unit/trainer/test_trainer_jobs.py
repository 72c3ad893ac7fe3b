"""Jobs on a real database: gapless numbers, legal moves only, fair turns, watchers that miss nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.database import open_database
from trainer_service.core.errors import IdempotencyConflict, IllegalTransition, InvalidRequest, JobNotFound
from trainer_service.core.events import JobEvent, Notice, NoticeLevel, StateChanged, StepDone
from trainer_service.core.jobs import Job, Jobs, NewJob
from trainer_service.core.queue import FairQueue, Waiting, pick
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.watch import Watchers

RECIPE = resolve(RecipeRequest(), rows=100, fleet=Fleet())[0]


def new(tenant: str = "acme", key: str = "", request: str = "r") -> NewJob:
    return NewJob(tenant, "ds-1", "tickets", "prod", RECIPE, 100, False, key, request)


def step(number: int) -> StepDone:
    return StepDone(
        step=number, total_steps=18, loss=1.0, learning_rate=1e-3, gradient_norm=1.0, tokens_per_second=1.0, epoch=0.1
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


@pytest.fixture
def jobs(url: str) -> Iterator[Jobs]:
    engine = open_database(url)
    yield Jobs(engine)
    engine.dispose()


def numbers(jobs: Jobs, job: Job) -> list[int]:
    return [event.number for event in jobs.events(job, 0, 10_000)]


def test_a_job_is_created_queued_with_its_notices(jobs: Jobs) -> None:
    job, made = jobs.create(new(), [Notice(level=NoticeLevel.INFO, message="n")])
    assert made
    assert job.state is JobState.QUEUED
    kinds = [event.payload.kind for event in jobs.events(job, 0, 10)]
    assert kinds == ["notice", "state_changed"]
    assert jobs.get("acme", job.id) == job


def test_another_tenants_job_does_not_exist(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    with pytest.raises(JobNotFound):
        jobs.get("rival", job.id)


def test_an_idempotency_key_makes_one_job(jobs: Jobs) -> None:
    first, made = jobs.create(new(key="k"))
    again, made_again = jobs.create(new(key="k"))
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


def test_numbers_have_no_gaps_under_concurrent_writers(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    threads = [threading.Thread(target=lambda: [jobs.append(job.id, step(at)) for at in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(jobs, job) == list(range(1, 82))


def test_a_refused_move_leaves_no_event(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    with pytest.raises(IllegalTransition, match="QUEUED and cannot become SUCCEEDED"):
        jobs.move(job.id, JobState.SUCCEEDED)
    assert numbers(jobs, job) == [1]


def test_a_restart_queues_what_was_running_and_numbers_go_on(url: str) -> None:
    engine = open_database(url)
    before = Jobs(engine)
    running, _ = before.create(new())
    cancelling, _ = before.create(new(tenant="other"))
    waiting, _ = before.create(new(tenant="third"))
    for job in (running, cancelling):
        claimed = FairQueue(before).claim()
        assert claimed is not None
        assert claimed.id == job.id
    before.move(cancelling.id, JobState.CANCELLING)
    engine.dispose()

    engine = open_database(url)  # the migrations run again, and find nothing to do
    after = Jobs(engine)
    assert {job.id for job in after.recover()} == {running.id, cancelling.id}
    assert after.get("acme", running.id).state is JobState.QUEUED
    assert after.get("other", cancelling.id).state is JobState.CANCELLED
    assert after.get("third", waiting.id) == waiting
    assert numbers(after, running) == [1, 2, 3]
    again = FairQueue(after).claim()
    assert again is not None
    engine.dispose()


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


def test_a_backed_off_job_waits_and_says_how_long(jobs: Jobs) -> None:
    jobs.create(new())
    queue = FairQueue(jobs)
    job = queue.claim()
    assert job is not None
    jobs.move(job.id, JobState.QUEUED, failed_attempt=True, delay=60)
    assert queue.claim() is None
    assert 50 < (queue.seconds_to_next() or 0) <= 60
    assert jobs.get("acme", job.id).failures == 1


def test_the_newest_facts_are_on_the_job(jobs: Jobs) -> None:
    job, _ = jobs.create(new())
    jobs.append(job.id, step(7))
    now = jobs.get("acme", job.id)
    assert (now.step, now.total_steps, now.last_event) == (7, 18, 2)


def test_turns_go_round_the_tenants(jobs: Jobs) -> None:
    for _ in range(3):
        jobs.create(new(tenant="greedy"))
    jobs.create(new(tenant="modest"))
    jobs.create(new(tenant="late"))
    queue, order = FairQueue(jobs), []
    while (job := queue.claim()) is not None:
        order.append(job.tenant)
        jobs.move(job.id, JobState.FAILED, reason=FailureReason.USER_ERROR)
    assert order == ["greedy", "modest", "late", "greedy", "greedy"]


@given(
    tenants=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30),
    running=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    served=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50)),
)
def test_nobody_with_fewer_running_jobs_is_passed_over(
    tenants: list[str], running: dict[str, int], served: dict[str, int]
) -> None:
    waiting = [Waiting(at, str(at), tenant) for at, tenant in enumerate(tenants)]
    chosen = pick(waiting, running, served)
    assert chosen is not None
    for other in waiting:
        assert running.get(chosen.tenant, 0) <= running.get(other.tenant, 0)
        if other.tenant == chosen.tenant:
            assert chosen.seq <= other.seq
    assert pick([], running, served) is None


async def collected(events: AsyncIterator[JobEvent]) -> list[int]:
    return [event.number async for event in events]


async def test_watchers_miss_nothing_and_double_nothing(url: str) -> None:
    engine = open_database(url)
    watchers = Watchers(asyncio.get_running_loop())
    jobs = Jobs(engine, watchers.changed)
    job, _ = jobs.create(new())
    early = asyncio.create_task(collected(watchers.follow(jobs, job, 0)))

    def work() -> None:
        FairQueue(jobs).claim()
        for at in range(30):
            jobs.append(job.id, step(at))
        jobs.move(job.id, JobState.FAILED, reason=FailureReason.USER_ERROR, message="m")

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
    engine.dispose()
