"""What the supervisor needs of a worker, whatever runs it."""

from typing import Protocol

from trainer_service.core.jobs import Job
from trainer_service.core.worker_messages import Message


class Worker(Protocol):
    """One attempt at one job."""

    async def receive(self) -> Message | None:
        """Returns the next message, or None when there will be none; safe to cancel."""
        ...

    async def allow_publish(self) -> None:
        """Answers ReadyToPublish."""
        ...

    def terminate(self) -> None:
        """Asks it to end; no effect when it has."""
        ...

    def kill(self) -> None:
        """Ends it; no effect when it has."""
        ...

    async def wait(self) -> int:
        """Returns the exit status once it has ended; below 0: minus the signal's number. Frees what it held."""
        ...


class WorkerFactory(Protocol):
    """Starts workers."""

    async def start(self, job: Job) -> Worker:
        """Starts an attempt."""
        ...

    def clean(self, job: Job) -> None:
        """Drops what attempts left on the disk; the job is over."""
        ...
