"""What the supervisor needs of a worker, whatever runs it."""

from collections.abc import Sequence
from typing import Protocol

from trainer_service.core.job_record import Job
from trainer_service.core.worker_messages import Message


class Worker(Protocol):
    """One attempt at one job."""

    async def receive(self) -> Sequence[Message]:
        """Returns the messages that are there, at least one; empty when there will be none. Safe to cancel."""
        ...

    async def allow_publish(self) -> None:
        """Answers ReadyToPublish."""
        ...

    async def tell_settled(self, number: int) -> None:
        """Answers Settle."""
        ...

    async def extend_lease(self, until: float) -> None:
        """Lets it work until a time of the machine's monotonic clock; after that it ends itself."""
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

    async def start(self, job: Job, lease_until: float) -> Worker:
        """Starts an attempt."""
        ...

    def clean(self, job: str) -> None:
        """Drops what attempts left on the disk; the job, by its id, will not go on."""
        ...

    def leftovers(self) -> Sequence[str]:
        """Returns the jobs that something is left of."""
        ...
