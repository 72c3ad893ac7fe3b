"""Whose jobs are whose: a service's lease on what it runs, and taking over what a dead one left.

A service renews one row every few seconds. Once its lease is over, any other service queues its jobs again. So that
no job runs twice at once, a service that cannot renew ends its workers before the lease is over, and every worker
ends itself when its service has gone silent for that long. With SQLite there is one service, and nothing to share:
then the lease never ends, and whatever a worker held is taken up at the next start.
"""

import math
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.orm import Session

from trainer_service.core.job_record import Job, snapshot
from trainer_service.core.jobs import Jobs, move_row
from trainer_service.core.schema import JobRow, ServiceRow
from trainer_service.core.states import ON_WORKER, JobState

MARGIN = 0.25
"""Share of a lease by which workers end before others may take their jobs: processes need a moment to die."""


class Lease:
    """One service's hold on its jobs.

    Attributes:
        owner: the service's id, written on every job that it claims.
        seconds: of a renewal; infinite where the database is not shared.
        until: when workers have to be gone unless the lease is renewed, by this machine's monotonic clock.
    """

    def __init__(self, jobs: Jobs, owner: str, seconds: float) -> None:
        """Holds nothing before the first `renew`."""
        self._jobs, self.owner = jobs, owner
        self.seconds = seconds if jobs.database.shared else math.inf
        self.until = -math.inf if jobs.database.shared else math.inf

    @property
    def is_held(self) -> bool:
        """False once workers of this service must be gone."""
        return time.monotonic() < self.until

    def renew(self) -> None:
        """Extends the lease. Raises DatabaseUnavailable; then it ends when it would have."""
        if not self._jobs.database.shared:
            return
        asked = time.monotonic()  # before the write: the database's time runs from some moment after this one
        with self._jobs.begin() as session:
            until = self._jobs.database.now(session) + timedelta(seconds=self.seconds)
            session.merge(ServiceRow(id=self.owner, lease_until=until))
        self.until = asked + self.seconds * (1 - MARGIN)

    def give_up(self) -> None:
        """Ends the lease at once: a service that stops has queued its jobs."""
        with self._jobs.begin() as session:
            row = session.get(ServiceRow, self.owner)
            if row is not None:
                session.delete(row)

    def recover_own(self) -> Sequence[Job]:
        """At the start: queues what an earlier life of this service held. Its workers died with it."""
        with self._jobs.begin() as session:
            own = JobRow.owner == self.owner if self._jobs.database.shared else true()
            recovered = _queue_again(session, own, "the service was restarted")
        return self._told(recovered)

    def take_over(self) -> Sequence[Job]:
        """Queues what services without a lease held."""
        if not self._jobs.database.shared:
            return []
        with self._jobs.begin() as session:
            alive = select(ServiceRow.id).where(ServiceRow.lease_until > self._jobs.database.now(session))
            orphaned = or_(JobRow.owner.is_(None), JobRow.owner.not_in(alive))
            recovered = _queue_again(session, orphaned, "the service that ran it is gone")
        return self._told(recovered)

    def _told(self, recovered: Sequence[Job]) -> Sequence[Job]:
        for job in recovered:
            self._jobs.changed(job.id)
        return recovered


def _queue_again(session: Session, whose: ColumnElement[bool], why: str) -> Sequence[Job]:
    query = select(JobRow).where(JobRow.state.in_(ON_WORKER), whose).order_by(JobRow.seq)
    moved = []
    # skip_locked: of two services that look at the same time each job is taken over by one.
    for row in session.scalars(query.with_for_update(skip_locked=True)):
        cancelled = row.state == JobState.CANCELLING
        move_row(session, row, JobState.CANCELLED if cancelled else JobState.QUEUED, message="" if cancelled else why)
        moved.append(snapshot(row))
    return moved


def service_id(state_dir: Path) -> str:
    """Returns the id of the service that has its state in a folder; the same after every restart."""
    file = state_dir / "service-id"
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        partial = file.with_suffix(".partial")
        partial.write_text(secrets.token_hex(8))
        partial.replace(file)
        return file.read_text().strip()
