"""What jobs keep in the store: the data set of every job that has not ended is held, so that garbage collection leaves it alone.

Owns that holds follow the jobs' states. The database says which jobs are under way; a round compares it with what is held, so that
whatever died in between (this service, the store, another trainer on the same database) is made up for. Releases may come
late, a hold may not: `settle` writes it before a job's creator gets an answer. Does not own the holds' log (`adapter_store.holds`).
"""

import asyncio
import threading

import structlog
from sqlalchemy import select

from adapter_store.errors import StoreError
from adapter_store.holds import Holds
from trainer_service.core.errors import DatabaseUnavailable, JobNotFound
from trainer_service.core.jobs import Jobs
from trainer_service.core.schema import JobRow
from trainer_service.core.states import TERMINAL

ROUND_S = 60.0
"""Between two rounds, and thus the longest time for which the data set of a job that has ended is held for nothing."""

log = structlog.get_logger(__name__)
Name = tuple[str, str]
"""Tenant and job."""


class DataHolds:
    """Holds of all jobs of one database.

    Args:
        holds: the store's.
        jobs: the database's; several services may share it, each of them holds and releases.
        by: who that is, for people.
    """

    def __init__(self, holds: Holds, jobs: Jobs, by: str) -> None:
        self._holds, self._jobs, self._by = holds, jobs, by
        self._held: set[Name] | None = None
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Makes a round now and then, until it is cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.round)
            except (StoreError, DatabaseUnavailable) as error:
                log.warning("holds_not_settled", cause=str(error))
            await asyncio.sleep(ROUND_S)

    def round(self) -> None:
        """Holds what jobs under way need, and lets go of what ended ones needed.

        Raises:
            StoreError: of what the store refused, the last one; the rest is done.
            DatabaseUnavailable: nothing is known about the jobs.
        """
        held = self._known()
        under_way = self._under_way()
        failure: StoreError | None = None
        for tenant, job in sorted(under_way ^ held):
            try:
                self.settle(tenant, job)
            except StoreError as error:
                failure = error
        if failure is not None:
            raise failure

    def settle(self, tenant: str, job: str) -> None:
        """Makes one job's hold what its state asks for. Call it behind every change that begins a job.

        Raises:
            StoreError: the store is away, or the job's log in it is damaged; the next round tries again.
        """
        while True:
            now = self._jobs.get(tenant, job)
            has_ended = now.state in TERMINAL
            if has_ended:
                self._holds.release(tenant, job, by=self._by)
            else:
                self._holds.hold(tenant, job, [now.dataset], by=self._by)
            with self._lock:
                if self._held is not None:
                    (self._held.discard if has_ended else self._held.add)((tenant, job))
            # Somebody may have resumed it before the release was written, and found it still held.
            if (self._jobs.get(tenant, job).state in TERMINAL) == has_ended:
                return

    def _under_way(self) -> set[Name]:
        with self._jobs.begin() as session:
            query = select(JobRow.tenant, JobRow.id).where(JobRow.state.not_in(TERMINAL))
            return {(tenant, job) for tenant, job in session.execute(query)}

    def _known(self) -> set[Name]:
        """Which of the database's jobs hold something. Asked of the store once: others only hold what is under way."""
        with self._lock:
            if self._held is not None:
                return set(self._held)
        with self._jobs.begin() as session:
            tenants = session.scalars(select(JobRow.tenant).distinct()).all()
        found = {(tenant, record.job) for tenant in tenants for record in self._holds.held(tenant)}
        ours = {name for name in found if self._is_ours(name)}
        with self._lock:
            self._held = ours | (self._held or set())
            return set(self._held)

    def _is_ours(self, name: Name) -> bool:
        """Another trainer with a database of its own may use the same store; its holds are not ours to end."""
        try:
            self._jobs.get(*name)
        except JobNotFound:
            return False
        return True
