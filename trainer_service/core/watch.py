"""Following a job's events: from the database in order, woken by commits.

A watcher subscribes before it reads, so an event that lands between its read and its wait has already woken it; numbers
come from the database, so none is lost or doubled, whatever wakes it and however often. Where several services share a
database, another one's commits wake nobody here: then a watcher also looks by itself every second.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from trainer_service.core.errors import InvalidRequest, ServiceStopping
from trainer_service.core.events import JobEvent
from trainer_service.core.job_record import Job
from trainer_service.core.jobs import Jobs
from trainer_service.core.states import TERMINAL

PAGE = 500
POLL_S = 1.0


class Watchers:
    """Who waits for which job; lives on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wakes watchers on `loop`."""
        self._loop = loop
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    def changed(self, job: str) -> None:
        """Wakes the job's watchers; from any thread."""
        self._loop.call_soon_threadsafe(self._wake, job)

    def _wake(self, job: str) -> None:
        for event in self._waiting.get(job, ()):
            event.set()

    def close(self) -> None:
        """Ends all streams with ServiceStopping; on the loop."""
        self._closed = True
        for job in list(self._waiting):
            self._wake(job)

    @contextmanager
    def _subscription(self, job: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting[job].add(event)
        try:
            yield event
        finally:
            self._waiting[job].discard(event)
            if not self._waiting[job]:
                del self._waiting[job]

    async def follow(self, jobs: Jobs, job: Job, after: int) -> AsyncIterator[JobEvent]:
        """Yields the job's events numbered above `after`, then new ones; ends after the job's last one.

        Raises:
            InvalidRequest: the job has no event `after` yet.
            ServiceStopping: the service goes down before the job ends; follow again from the last number seen.
        """
        if not 0 <= after <= job.last_event:
            raise InvalidRequest(f"job {job.id} has events 1..{job.last_event}; 'after' = {after} is none of them")
        with self._subscription(job.id) as changed:
            while True:
                changed.clear()
                events = await asyncio.to_thread(jobs.events, job, after, PAGE)
                for event in events:
                    yield event
                    after = event.number
                if events:
                    continue
                job = await asyncio.to_thread(jobs.get, job.tenant, job.id)
                if job.last_event > after:
                    continue
                if job.state in TERMINAL:
                    return
                if self._closed:
                    raise ServiceStopping("the trainer is stopping; watch the job again from the last number seen")
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), POLL_S if jobs.database.shared else None)
