"""Who goes next: fair across tenants, first come first served inside one.

The next job is one of the tenant that has the fewest running jobs; among those, of the tenant that was served longest
ago. A tenant that queues a hundred jobs thus delays another tenant's first job by one job at most.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from trainer_service.core.jobs import Job, Jobs, locked, move_row, snapshot
from trainer_service.core.schema import JobRow
from trainer_service.core.states import ON_WORKER, JobState


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first job that a tenant has in the queue."""

    seq: int
    id: str
    tenant: str


def pick(waiting: Iterable[Waiting], running: Mapping[str, int], served: Mapping[str, int]) -> Waiting | None:
    """Returns the job that goes next.

    Args:
        waiting: jobs that may start now.
        running: jobs with a worker, by tenant.
        served: number of the newest turn that each tenant got; turns are counted over all tenants.
    """
    return min(waiting, key=lambda job: (running.get(job.tenant, 0), served.get(job.tenant, 0), job.seq), default=None)


class FairQueue:
    """Hands out queued jobs. One service per database: two would count each other's running jobs, but not lock them."""

    def __init__(self, jobs: Jobs) -> None:
        """Reads and moves the jobs of `jobs`."""
        self._jobs = jobs

    def claim(self) -> Job | None:
        """Moves the next job to PREPARING and returns it, or None when none may start now."""
        now = datetime.now(UTC).replace(tzinfo=None)
        ready = JobRow.state == JobState.QUEUED, or_(JobRow.not_before.is_(None), JobRow.not_before <= now)
        with self._jobs.begin() as session:
            waiting = [
                Waiting(*row) for row in session.execute(select(JobRow.seq, JobRow.id, JobRow.tenant).where(*ready))
            ]
            running = _by_tenant(session, func.count(), JobRow.state.in_(ON_WORKER))
            served = _by_tenant(session, func.max(JobRow.served))
            chosen = pick(waiting, running, served)
            if chosen is None:
                return None
            row = locked(session, chosen.id)
            row.attempt += 1
            row.served = max(served.values()) + 1
            row.started_at = row.started_at or now
            move_row(session, row, JobState.PREPARING)
            job = snapshot(row)
        self._jobs.changed(job.id)
        return job

    def seconds_to_next(self) -> float | None:
        """Returns when the next backed-off job may start, in seconds from now; None when there is none."""
        query = select(func.min(JobRow.not_before)).where(JobRow.state == JobState.QUEUED)
        with self._jobs.begin() as session:
            at = session.scalar(query)
        return None if at is None else max(0.0, (at - datetime.now(UTC).replace(tzinfo=None)).total_seconds())


def _by_tenant(session: Session, value: ColumnElement[int], *only: ColumnElement[bool]) -> dict[str, int]:
    """Returns an aggregate of jobs for every tenant that has any."""
    query = select(JobRow.tenant, value).where(*only).group_by(JobRow.tenant)
    return {row[0]: row[1] for row in session.execute(query)}
