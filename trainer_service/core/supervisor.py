"""Runs queued jobs on workers and sees every one of them to an end.

Owns which attempts run now, and that none is forgotten. Does not own what an end means for its job (`verdict`), a
worker's messages (`attempt`), who goes next (`queue`), whose a job is (`lease`) or how states are stored (`jobs`).
"""

import asyncio
import contextlib

import structlog

from trainer_service.core.attempt import Attempt
from trainer_service.core.errors import AttemptOver, DatabaseUnavailable, IllegalTransition
from trainer_service.core.job_record import Job, naive_now
from trainer_service.core.jobs import Jobs
from trainer_service.core.lease import Lease
from trainer_service.core.queue import FairQueue
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.verdict import End, Policy, Stopped, judge
from trainer_service.core.worker import WorkerFactory
from trainer_service.core.worker_messages import Failed, Finished, Postponed

POLL_S = 1.0
"""How often a service that shares its database looks for jobs, and for cancellations, of other services."""
RETRY_S = 2.0
"""Between two looks at a database that is away."""

log = structlog.get_logger(__name__)


class Supervisor:
    """The jobs that run here now."""

    def __init__(self, jobs: Jobs, queue: FairQueue, lease: Lease, workers: WorkerFactory, policy: Policy) -> None:
        """Starts nothing before `run`."""
        self._jobs, self._queue, self._lease, self._factory, self._policy = jobs, queue, lease, workers, policy
        self._attempts: dict[str, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Looks at the queue again; call it after a job was queued."""
        self._wake.set()

    async def run(self) -> None:
        """Queues what an earlier life of this service left behind, then starts jobs until `stop`."""
        await asyncio.to_thread(self._lease.renew)
        for job in await asyncio.to_thread(self._lease.recover_own):
            log.info("job_recovered", job=job.id, state=job.state)
        await asyncio.to_thread(self._sweep)
        sharing = asyncio.create_task(self._share(), name="lease") if self._jobs.database.shared else None
        while not self._stopping:
            self._wake.clear()
            if sharing is not None and sharing.done():
                sharing.result()  # raises: without it the lease would run out, and all jobs with it
            try:
                delay = await self._start_jobs()
            except DatabaseUnavailable as error:
                log.warning("database_away", cause=str(error))
                delay = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
        if sharing is not None:
            sharing.cancel()

    async def _start_jobs(self) -> float | None:
        """Claims and starts what may run; returns when to look again, None: when woken."""
        claimed_at = naive_now()
        while len(self._tasks) < self._policy.max_running and not self._stopping and self._lease.is_held:
            claimed_at = naive_now()
            next_job: Job | None = await asyncio.to_thread(self._queue.claim)
            if next_job is None:
                break
            task = asyncio.create_task(self._attend(next_job), name=f"job {next_job.id}")
            self._tasks.add(task)
            task.add_done_callback(self._attended)
        if len(self._tasks) >= self._policy.max_running:
            return None  # a finished job wakes us; waking earlier could start nothing
        delay = await asyncio.to_thread(self._queue.seconds_to_next, claimed_at)
        return min(POLL_S, delay or POLL_S) if self._jobs.database.shared else delay

    def _attended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _share(self) -> None:
        """Keeps the lease, takes over what dead services left, and ends what was cancelled through another service."""
        renewed = -self._lease.seconds
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() - renewed > self._lease.seconds / 4:
                    await asyncio.to_thread(self._lease.renew)
                    renewed = loop.time()
                    for attempt in list(self._attempts.values()):
                        await attempt.worker.extend_lease(self._lease.until)
                    for job in await asyncio.to_thread(self._lease.take_over):
                        log.info("job_taken_over", job=job.id, state=job.state)
                        self._wake.set()
                for job_id in await asyncio.to_thread(self._jobs.cancelling, self._lease.owner):
                    if job_id in self._attempts:
                        self._attempts[job_id].end()
            except DatabaseUnavailable as error:
                log.warning("database_away", cause=str(error), lease_held=self._lease.is_held)
            await asyncio.sleep(POLL_S)

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancels a job; one that is cancelled or being cancelled already is returned as it is.

        Raises:
            IllegalTransition: it has ended, or has begun to publish.
        """
        job = await asyncio.to_thread(self._jobs.get, tenant, job_id)
        if job.state in (JobState.CANCELLING, JobState.CANCELLED):
            return job
        waiting = job.state in (JobState.QUEUED, JobState.VALIDATING)
        try:
            target = JobState.CANCELLED if waiting else JobState.CANCELLING
            job = await asyncio.to_thread(self._jobs.move, job_id, target)
        except IllegalTransition:
            now = await asyncio.to_thread(self._jobs.get, tenant, job_id)
            if now.state != job.state:  # it moved meanwhile (queued -> preparing, say): look again
                return await self.cancel(tenant, job_id)
            if now.may_have_published and now.ended_at is None:
                raise
            raise IllegalTransition(f"job {job_id} is {now.state}; there is nothing to cancel") from None
        if attempt := self._attempts.get(job_id):
            attempt.end()
        return job

    async def stop(self) -> None:
        """Ends all workers; their jobs are queued again and go on after the next start, or on another service."""
        self._stopping = True
        self._wake.set()
        for attempt in self._attempts.values():
            attempt.end()
        await asyncio.gather(*self._tasks)
        with contextlib.suppress(DatabaseUnavailable):  # the lease then ends by itself
            await asyncio.to_thread(self._lease.give_up)

    async def _attend(self, job: Job) -> None:
        """Sees one attempt through; never raises, or its job would stay RUNNING without a worker."""
        try:
            worker = await self._factory.start(job, self._lease.until)
        except Exception:
            log.exception("worker_not_started", job=job.id)
            await self._conclude(job, Failed(reason=FailureReason.SYSTEM_ERROR, message="the worker did not start"))
            return
        attempt = self._attempts[job.id] = Attempt(job, worker, self._jobs, self._lease, self._policy)
        end: End | None = None
        try:
            now = await asyncio.to_thread(self._jobs.get, job.tenant, job.id)
            if self._stopping or now.state == JobState.CANCELLING:  # asked for while the process was being started
                attempt.end()
            end = await attempt.follow()
        except AttemptOver as error:
            log.warning("attempt_over", job=job.id, cause=str(error))
            worker.kill()
        except DatabaseUnavailable as error:
            worker.kill()
            end = Postponed(message=str(error))
        except Exception:
            log.exception("supervision_failed", job=job.id)
            worker.kill()
            end = Failed(reason=FailureReason.SYSTEM_ERROR, message="the supervisor could not follow the worker")
        finally:
            status = await self._reap(attempt)
            del self._attempts[job.id]
        log.info("worker_ended", job=job.id, attempt=job.attempt, status=status)
        await self._conclude(job, end or attempt.death(status))

    async def _reap(self, attempt: Attempt) -> int:
        """Waits for the process, with force after a while."""
        try:
            async with asyncio.timeout(self._policy.kill_after):
                return await attempt.worker.wait()
        except TimeoutError:
            attempt.worker.kill()
            return await attempt.worker.wait()

    async def _conclude(self, job: Job, end: End) -> None:
        """Moves the job to where this attempt leaves it; again and again while the database is away or its disk full."""
        if self._stopping and not isinstance(end, Finished):
            end = Stopped()
        while True:
            try:
                await asyncio.to_thread(
                    self._jobs.conclude, job.id, job.attempt, lambda now: judge(now, end, self._policy)
                )
                await asyncio.to_thread(self._sweep)
                return
            except AttemptOver as error:
                log.info("attempt_over", job=job.id, cause=str(error))
                return
            except IllegalTransition:
                log.exception("job_not_settled", job=job.id)
                return
            except Exception:
                log.exception("job_not_settled", job=job.id)
            if self._stopping:  # the next start of the service queues the job again
                return
            await asyncio.sleep(self._policy.backoff_seconds)

    def _sweep(self) -> None:
        """Drops the files of jobs that will not go on, of this attempt's and of any that a crash left behind."""
        if left := self._factory.leftovers():
            for job in self._jobs.without_future(left, self._policy.keep_checkpoints):
                self._factory.clean(job)
