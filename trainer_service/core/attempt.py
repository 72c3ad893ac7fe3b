"""One attempt: a worker's messages into its job's history, to the last one.

Owns what a message, silence or a database that is away means while the worker lives. Does not own what comes after
(`verdict`) nor the process (`worker.Worker`).
"""

import asyncio
import signal
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from trainer_service.core.errors import DatabaseUnavailable, IllegalTransition
from trainer_service.core.events import Payload
from trainer_service.core.job_record import Job
from trainer_service.core.jobs import Jobs
from trainer_service.core.journal import Journal
from trainer_service.core.kernel_oom import kernel_oom_kills
from trainer_service.core.lease import Lease
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.verdict import Died, Policy
from trainer_service.core.worker import Worker
from trainer_service.core.worker_messages import (
    Ended,
    Failed,
    Finished,
    Heartbeat,
    Message,
    Phase,
    Postponed,
    ReadyToPublish,
    Settle,
)

DATABASE_PAUSE = 1.0
"""Seconds between two tries of a database that is away."""
P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Attempt:
    """A worker at work on a job.

    Args:
        job: as claimed.
        worker: started for it.
        jobs: where its history is.
        lease: without it this service may write nothing about the job.
        policy: for its patience.
    """

    def __init__(self, job: Job, worker: Worker, jobs: Jobs, lease: Lease, policy: Policy) -> None:
        self._job, self.worker, self._jobs, self._lease, self._policy = job, worker, jobs, lease, policy
        self._journal = Journal(job)
        self._unwritten: list[Payload] = []
        self._batch = 0
        self._oom_kills = kernel_oom_kills()
        self._ending = False

    def end(self) -> None:
        """SIGTERM now, SIGKILL later; `kill` does nothing to a worker that has ended."""
        if not self._ending:
            self._ending = True
            self.worker.terminate()
            asyncio.get_running_loop().call_later(self._policy.kill_after, self.worker.kill)

    async def follow(self) -> Ended | None:
        """Takes the worker's messages to the last one; None when it died without one.

        Raises:
            AttemptOver: the job was given to somebody else.
            DatabaseUnavailable: for so long that the lease is over.
        """
        while True:
            try:
                async with asyncio.timeout(self._policy.heartbeat_timeout):
                    messages = await self.worker.receive()
            except TimeoutError:
                self.worker.kill()
                text = f"the worker gave no sign of life for {self._policy.heartbeat_timeout:g} s"
                return Failed(reason=FailureReason.SYSTEM_ERROR, message=text)
            if not messages:
                return None
            for message in messages:
                if isinstance(message, Ended):
                    await self._write(settle=True)
                    return message
                await self._take(message)
            await (
                self._write()
            )  # what came together is one transaction: a fast job does not wait for the disk each step

    async def _take(self, message: Message) -> None:
        match message:
            case Heartbeat():
                self._oom_kills = kernel_oom_kills()
            case Settle():
                await self._write(settle=True)
                await self.worker.tell_settled(message.number)
            case Phase() | ReadyToPublish():
                await self._write(settle=True)
                await self._move(message)
            case Finished() | Failed() | Postponed():
                raise AssertionError("last messages are taken by `follow`")
            case _:
                self._unwritten += self._journal.take(message)

    async def _move(self, message: Phase | ReadyToPublish) -> None:
        state = message.state if isinstance(message, Phase) else JobState.PUBLISHING
        try:
            await self._insist(self._jobs.move, self._job.id, state, attempt=self._job.attempt)
        except IllegalTransition:
            now = await self._insist(self._jobs.get, self._job.tenant, self._job.id)
            if now.state != state:  # else an earlier try was written, and its answer lost
                # It is being cancelled. Not answering ReadyToPublish is what keeps a cancelled job unpublished.
                log.info("worker_outrun", job=self._job.id, wanted=state)
                return
        if isinstance(message, ReadyToPublish):
            await self.worker.allow_publish()

    async def _write(self, *, settle: bool = False) -> None:
        if settle:
            self._unwritten += self._journal.settle()
        if self._unwritten:
            self._batch += 1
            await self._insist(self._jobs.record, self._job.id, self._job.attempt, self._unwritten, self._batch)
            self._unwritten = []

    async def _insist(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Tries again while the database is away: meanwhile the worker goes on until the pipe is full, and then waits."""
        while True:
            try:
                return await asyncio.to_thread(call, *args, **kwargs)
            except DatabaseUnavailable as error:
                if self._ending or not self._lease.is_held:
                    raise
                log.warning("database_away", job=self._job.id, cause=str(error))
            await asyncio.sleep(DATABASE_PAUSE)

    def death(self, status: int) -> Died:
        """Says how a worker ended that left no last message."""
        now = kernel_oom_kills()
        counted = now is not None and self._oom_kills is not None and now > self._oom_kills
        return Died(status, out_of_memory=counted and status == -signal.SIGKILL)
