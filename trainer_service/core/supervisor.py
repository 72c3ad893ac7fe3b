"""Runs queued jobs on workers and sees every one of them to an end.

Owns what a worker's messages, silence or death mean for its job. Does not own how a worker is run (`worker.Worker`), who
goes next (`queue`) or how states are stored (`jobs`).
"""

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from trainer_service.core.errors import IllegalTransition
from trainer_service.core.jobs import Job, Jobs
from trainer_service.core.queue import FairQueue
from trainer_service.core.states import TERMINAL, FailureReason, JobState
from trainer_service.core.worker import Worker, WorkerFactory
from trainer_service.core.worker_messages import Failed, Finished, Heartbeat, Message, Phase, ReadyToPublish

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is."""

    max_running: int = 1
    max_attempts: int = 3
    """Attempts that may end in a SYSTEM_ERROR before the job does."""
    backoff_seconds: float = 2.0
    """Before the second attempt; doubles with each one."""
    heartbeat_timeout: float = 60.0
    """Seconds without a message after which a worker counts as hung."""
    kill_after: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""


class Supervisor:
    """The jobs that run now."""

    def __init__(self, jobs: Jobs, queue: FairQueue, workers: WorkerFactory, policy: Policy) -> None:
        """Starts nothing before `run`."""
        self._jobs, self._queue, self._factory, self._policy = jobs, queue, workers, policy
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Looks at the queue again; call it after a job was queued."""
        self._wake.set()

    async def run(self) -> None:
        """Queues what the last service left behind, then starts jobs until `stop`."""
        for job in await asyncio.to_thread(self._jobs.recover):
            log.info("job_recovered", job=job.id, state=job.state)
        while not self._stopping:
            self._wake.clear()
            while len(self._tasks) < self._policy.max_running and not self._stopping:
                next_job: Job | None = await asyncio.to_thread(self._queue.claim)
                if next_job is None:
                    break
                task = asyncio.create_task(self._attend(next_job), name=f"job {next_job.id}")
                self._tasks.add(task)
                task.add_done_callback(self._attended)
            delay = await asyncio.to_thread(self._queue.seconds_to_next)
            if len(self._tasks) >= self._policy.max_running:
                delay = None  # a finished job wakes us; waking earlier could start nothing
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    def _attended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancels a job; one that is cancelled or being cancelled already is returned as it is.

        Raises:
            IllegalTransition: it has ended, or is being published.
        """
        job = await asyncio.to_thread(self._jobs.get, tenant, job_id)
        if job.state in (JobState.CANCELLING, JobState.CANCELLED):
            return job
        waiting = job.state in (JobState.QUEUED, JobState.VALIDATING)
        target = JobState.CANCELLED if waiting else JobState.CANCELLING
        try:
            job = await asyncio.to_thread(self._jobs.move, job_id, target)
        except IllegalTransition:
            now = await asyncio.to_thread(self._jobs.get, tenant, job_id)
            if now.state != job.state:  # it moved meanwhile (queued -> preparing, say): look again
                return await self.cancel(tenant, job_id)
            hint = "roll the alias back instead" if now.state == JobState.PUBLISHING else "there is nothing to cancel"
            raise IllegalTransition(f"job {job_id} is {now.state}; {hint}") from None
        if waiting:
            await asyncio.to_thread(self._factory.clean, job)
        elif worker := self._workers.get(job_id):
            self._end(worker)
        return job

    async def stop(self) -> None:
        """Ends all workers; their jobs are queued again and go on after the next start."""
        self._stopping = True
        self._wake.set()
        for worker in self._workers.values():
            self._end(worker)
        await asyncio.gather(*self._tasks)

    def _end(self, worker: Worker) -> None:
        """SIGTERM now, SIGKILL later; `kill` does nothing to a worker that has ended."""
        worker.terminate()
        asyncio.get_running_loop().call_later(self._policy.kill_after, worker.kill)

    async def _attend(self, job: Job) -> None:
        """Sees one attempt through; never raises, or its job would stay RUNNING without a worker."""
        end: Finished | Failed | None = None
        try:
            worker = await self._factory.start(job)
        except Exception:
            log.exception("worker_not_started", job=job.id)
            await self._conclude(job, Failed(reason=FailureReason.SYSTEM_ERROR, message="the worker did not start"))
            return
        self._workers[job.id] = worker
        try:
            end = await self._listen(job, worker)
        except Exception:
            log.exception("supervision_failed", job=job.id)
            worker.kill()
            end = Failed(reason=FailureReason.SYSTEM_ERROR, message="the supervisor could not follow the worker")
        finally:
            status = await self._reap(worker)
            del self._workers[job.id]
        log.info("worker_ended", job=job.id, attempt=job.attempt, status=status)
        await self._conclude(job, end or _death(status))

    async def _listen(self, job: Job, worker: Worker) -> Finished | Failed | None:
        """Follows the worker's messages to the last one; None when it died without one."""
        now = await asyncio.to_thread(self._jobs.get, job.tenant, job.id)
        if self._stopping or now.state == JobState.CANCELLING:  # asked for while the process was being started
            self._end(worker)
        while True:
            try:
                async with asyncio.timeout(self._policy.heartbeat_timeout):
                    message = await worker.receive()
            except TimeoutError:
                worker.kill()
                return Failed(
                    reason=FailureReason.SYSTEM_ERROR,
                    message=f"the worker gave no sign of life for {self._policy.heartbeat_timeout:g} s",
                )
            if message is None or isinstance(message, Finished | Failed):
                return message
            await self._take(job, worker, message)

    async def _take(self, job: Job, worker: Worker, message: Message) -> None:
        if isinstance(message, Heartbeat | Finished | Failed):
            return
        if not isinstance(message, Phase | ReadyToPublish):
            await asyncio.to_thread(self._jobs.append, job.id, message)
            return
        state = message.state if isinstance(message, Phase) else JobState.PUBLISHING
        try:
            await asyncio.to_thread(self._jobs.move, job.id, state)
        except IllegalTransition:
            # It is being cancelled. Not answering ReadyToPublish is what keeps a cancelled job unpublished.
            log.info("worker_outrun", job=job.id, wanted=state)
            return
        if isinstance(message, ReadyToPublish):
            await worker.allow_publish()

    async def _reap(self, worker: Worker) -> int:
        """Waits for the process, with force after a while."""
        try:
            async with asyncio.timeout(self._policy.kill_after):
                return await worker.wait()
        except TimeoutError:
            worker.kill()
            return await worker.wait()

    async def _conclude(self, job: Job, end: Finished | Failed) -> None:
        """Moves the job to where this attempt leaves it; again and again while the database is away or its disk full."""
        while True:
            try:
                moved = await asyncio.to_thread(self._settle, job, end)
                if moved.state in TERMINAL:
                    await asyncio.to_thread(self._factory.clean, moved)
                return
            except IllegalTransition:
                log.exception("job_not_settled", job=job.id)
                return
            except Exception:
                log.exception("job_not_settled", job=job.id)
            if self._stopping:  # the next start of the service queues the job again
                return
            await asyncio.sleep(self._policy.backoff_seconds)

    def _settle(self, job: Job, end: Finished | Failed) -> Job:
        now = self._jobs.get(job.tenant, job.id)
        if now.state == JobState.CANCELLING:
            return self._jobs.move(job.id, JobState.CANCELLED)
        if isinstance(end, Finished):
            return self._jobs.move(job.id, end.state, message=end.message)
        if self._stopping:
            return self._jobs.move(job.id, JobState.QUEUED, message="the service was stopped")
        if end.reason != FailureReason.SYSTEM_ERROR or now.failures + 1 >= self._policy.max_attempts:
            return self._jobs.move(job.id, JobState.FAILED, reason=end.reason, message=end.message, failed_attempt=True)
        delay = self._policy.backoff_seconds * 2**now.failures
        message = f"attempt {now.attempt} failed: {end.message}; trying again"
        return self._jobs.move(job.id, JobState.QUEUED, message=message, failed_attempt=True, delay=delay)


def _death(status: int) -> Failed:
    """Says how a worker that left no last message ended."""
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return Failed(reason=FailureReason.SYSTEM_ERROR, message=f"the worker ended {how}")
