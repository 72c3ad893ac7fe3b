"""The supervisor against a real database and workers that do as they are told."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.contract.jobs_database import new, step
from trainer_service.core import attempt as attempts
from trainer_service.core.database import Database, open_database
from trainer_service.core.errors import DatabaseUnavailable
from trainer_service.core.job_record import Job
from trainer_service.core.jobs import Jobs
from trainer_service.core.lease import Lease
from trainer_service.core.queue import FairQueue
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.supervisor import Supervisor
from trainer_service.core.verdict import Policy
from trainer_service.core.worker_messages import Failed, Finished, Message, Phase, Postponed, ReadyToPublish, Settle

Script = Sequence[Message | Callable[[], object]]
SUCCEEDED = Finished(state=JobState.SUCCEEDED)
RUNNING = Phase(state=JobState.RUNNING)


class ScriptedWorker:
    """Says its lines, then ends with a status, or hangs until it is ended."""

    def __init__(self, script: Script, status: int | None = 0) -> None:
        self._script, self._status = iter(script), status
        self._ended = asyncio.Event()
        self.answers: list[str] = []

    async def receive(self) -> Sequence[Message]:
        for line in self._script:
            if not callable(line):
                return [line]
            await asyncio.to_thread(line)
        if self._status is None:
            await self._ended.wait()
        return []

    async def allow_publish(self) -> None:
        self.answers.append("publish")

    async def tell_settled(self, number: int) -> None:
        self.answers.append(f"settled {number}")

    async def extend_lease(self, until: float) -> None:
        self.answers.append("lease")

    def terminate(self) -> None:
        self._end(-signal.SIGTERM)

    def kill(self) -> None:
        self._end(-signal.SIGKILL)

    def _end(self, status: int) -> None:
        self._status = status if self._status is None else self._status
        self._ended.set()

    async def wait(self) -> int:
        return self._status or 0


class Factory:
    """Starts the next scripted worker."""

    def __init__(self, *workers: ScriptedWorker) -> None:
        self.workers, self.cleaned = iter(workers), list[str]()
        self.started: list[Job] = []

    async def start(self, job: Job, lease_until: float) -> ScriptedWorker:
        self.started.append(job)
        return next(self.workers)

    def clean(self, job: str) -> None:
        self.cleaned.append(job)

    def leftovers(self) -> Sequence[str]:
        return [job.id for job in self.started if job.id not in self.cleaned]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    yield opened
    opened.close()


@asynccontextmanager
async def supervised(database: Database, *workers: ScriptedWorker, **policy: float) -> AsyncIterator[tuple]:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    jobs = Jobs(database, lambda job: loop.call_soon_threadsafe(changed.set))
    factory = Factory(*workers)
    settings = Policy(**{"backoff_seconds": 0.01, "kill_after": 5.0} | policy)  # type: ignore[arg-type]
    supervisor = Supervisor(jobs, FairQueue(jobs, "me"), Lease(jobs, "me", 30), factory, settings)
    task = asyncio.create_task(supervisor.run())

    async def until(job: Job, state: JobState) -> Job:
        async with asyncio.timeout(20):
            while True:
                changed.clear()
                try:
                    now = await asyncio.to_thread(jobs.get, job.tenant, job.id)
                except DatabaseUnavailable:
                    continue  # what was to be seen may have been the last change of all
                if now.state is state:
                    return now
                await changed.wait()

    yield jobs, supervisor, factory, until
    await supervisor.stop()
    await task


async def test_a_job_runs_to_its_end_and_leaves_nothing(database: Database) -> None:
    worker = ScriptedWorker([RUNNING, step(1), Settle(number=1), step(2), ReadyToPublish(), SUCCEEDED])
    async with supervised(database, worker) as (jobs, supervisor, factory, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        done = await until(job, JobState.SUCCEEDED)
        assert done.step == 2
        assert worker.answers == ["settled 1", "publish"]
    assert factory.cleaned == [job.id]


async def test_what_is_settled_is_in_the_history_before_the_answer(database: Database) -> None:
    seen: list[int] = []

    class Asking(ScriptedWorker):
        async def tell_settled(self, number: int) -> None:
            seen.append(jobs.list(None, 0, "")[0][0].step)

    worker = Asking([RUNNING, step(1), step(2), Settle(number=1), ReadyToPublish(), SUCCEEDED])
    async with supervised(database, worker) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        await until(job, JobState.SUCCEEDED)
        assert seen == [2]


async def test_failures_wait_and_start_again(database: Database) -> None:
    crash = Failed(reason=FailureReason.SYSTEM_ERROR, message="crash")
    good = ScriptedWorker([RUNNING, ReadyToPublish(), SUCCEEDED])
    away = ScriptedWorker([Postponed(message="the store is away")])
    async with supervised(
        database, ScriptedWorker([crash]), away, ScriptedWorker([], -signal.SIGKILL), ScriptedWorker([crash]), good
    ) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        done = await until(job, JobState.SUCCEEDED)
        assert done.attempt == 5
        messages = [e.payload.message for e in jobs.events(job, 0, 100) if e.payload.kind == "state_changed"]
        assert [text.split(":")[0] for text in messages if text] == [
            "attempt 1 failed",
            "the store is away; the job waits and goes on by itself",
            "attempt 3",
            "attempt 4 failed",
        ]


async def test_a_memory_failure_starts_again_with_less(database: Database) -> None:
    small = Failed(reason=FailureReason.OUT_OF_MEMORY, message="too small")
    async with supervised(database, ScriptedWorker([small]), ScriptedWorker([small]), micro_batch_tokens=4096) as (
        jobs,
        supervisor,
        factory,
        until,
    ):
        job, _ = jobs.create(new())
        supervisor.wake()
        failed = await until(job, JobState.FAILED)
        assert [started.micro_batch_tokens for started in factory.started] == [None, 1024]
        assert failed.failure_reason is FailureReason.OUT_OF_MEMORY
        assert factory.cleaned == [], "it may be resumed"


async def test_a_cancelled_worker_is_ended_and_never_allowed_to_publish(database: Database) -> None:
    worker = ScriptedWorker([RUNNING], status=None)
    async with supervised(database, worker) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        await until(job, JobState.RUNNING)
        await supervisor.cancel("acme", job.id)
        assert (await until(job, JobState.CANCELLED)).attempt == 1
        assert worker.answers == []
        assert (await supervisor.cancel("acme", job.id)).state is JobState.CANCELLED


async def test_a_stop_queues_what_runs(database: Database) -> None:
    worker = ScriptedWorker([RUNNING, step(1)], status=None)
    async with supervised(database, worker) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        await until(job, JobState.RUNNING)
    now = jobs.get("acme", job.id)
    assert (now.state, now.message, now.failures) == (JobState.QUEUED, "the service was stopped", 0)


async def test_a_hung_worker_is_killed(database: Database) -> None:
    worker = ScriptedWorker([RUNNING], status=None)
    async with supervised(database, worker, heartbeat_timeout=0.05, max_attempts=1) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        assert "no sign of life" in (await until(job, JobState.FAILED)).message


async def test_a_database_that_is_away_for_a_while_loses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full disk, restarted server: the worker waits at its pipe, its end is written later, nothing is written twice."""
    monkeypatch.setattr(attempts, "DATABASE_PAUSE", 0.01)
    failing: list[int] = []
    opened = database._sessions

    def fail() -> None:
        failing.extend(range(5))

    def sessions() -> object:
        if failing:
            failing.pop()
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        return opened.begin()

    seen_running = threading.Event()
    worker = ScriptedWorker(
        [RUNNING, seen_running.wait, fail, step(1), step(2), fail, ReadyToPublish(), fail, SUCCEEDED]
    )
    async with supervised(database, worker) as (jobs, supervisor, _, until):
        job, _ = jobs.create(new())
        supervisor.wake()
        await until(job, JobState.RUNNING)
        monkeypatch.setattr(database, "_sessions", type("Failing", (), {"begin": staticmethod(sessions)}))
        seen_running.set()
        await until(job, JobState.SUCCEEDED)
    steps = [event.payload.step for event in jobs.events(job, 0, 100) if event.payload.kind == "step_done"]
    assert steps == [1, 2]
    assert jobs.get("acme", job.id).attempt == 1
