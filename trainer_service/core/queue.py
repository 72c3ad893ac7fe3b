"""Who goes next: fair across tenants; inside one by priority, then first come first served.

The next job is one of the tenant that has the fewest running jobs; among those, of the tenant that was served longest
ago. A tenant that queues a hundred jobs thus delays another tenant's first job by one job at most, and a priority moves
a job past its own tenant's jobs only. A tenant at its limit of running jobs, or one that is disabled, is passed over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from trainer_service.core.job_record import Job, naive_now, snapshot
from trainer_service.core.jobs import Jobs, lock_queue, move_row
from trainer_service.core.schema import JobRow
from trainer_service.core.states import ON_WORKER, JobState
from trainer_service.core.verdict import LONGEST_PAUSE

LOOK_AGAIN_S = 30.0
"""While jobs wait: a tenant's limit may have been raised meanwhile, which wakes nobody."""


def pick(waiting: Mapping[str, int], running: Mapping[str, int], served: Mapping[str, int]) -> str | None:
    """Returns the tenant that goes next.

    Args:
        waiting: number of the oldest job that may start now, by tenant.
        running: jobs with a worker, by tenant.
        served: number of the newest turn that each tenant got; turns are counted over all tenants.
    """
    return min(
        waiting, key=lambda tenant: (running.get(tenant, 0), served.get(tenant, 0), waiting[tenant]), default=None
    )


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A tenant whose limit has to be asked for before it can have its turn."""

    tenant: str


class FairQueue:
    """Hands out queued jobs; several services may claim from one database at once.

    Args:
        jobs: whose jobs.
        owner: id of this service.
        may_run: returns how many jobs a tenant may have running; 0: any number, below 0: none at all.
    """

    def __init__(self, jobs: Jobs, owner: str = "", may_run: Callable[[str], int] = lambda tenant: 0) -> None:
        self._jobs, self._owner, self._may_run = jobs, owner, may_run

    def claim(self) -> Job | None:
        """Moves the next job to PREPARING and returns it, or None when none may start now."""
        limits: dict[str, int] = {}
        while isinstance(found := self._try(limits), _Unknown):
            # Outside of the transaction: this may ask the store, and the queue must not wait for that.
            limits[found.tenant] = self._may_run(found.tenant)
        if found is not None:
            self._jobs.changed(found.id)
        return found

    def _try(self, limits: Mapping[str, int]) -> Job | _Unknown | None:
        with self._jobs.begin() as session:
            queue = lock_queue(session)  # from here on nobody else counts or claims
            ready = JobRow.state == JobState.QUEUED, _pause_is_over(naive_now())
            waiting = _by_tenant(session, func.min(JobRow.seq), *ready)
            running = _by_tenant(session, func.count(), JobRow.state.in_(ON_WORKER))
            served = _by_tenant(session, func.max(JobRow.served), JobRow.tenant.in_(waiting))
            while (tenant := pick(waiting, running, served)) is not None:
                if tenant not in limits:
                    return _Unknown(tenant)
                if limits[tenant] == 0 or running.get(tenant, 0) < limits[tenant]:
                    first = select(JobRow).where(JobRow.tenant == tenant, *ready)
                    first = first.order_by(JobRow.priority.desc(), JobRow.seq).limit(1)
                    # skip_locked: a job that is being cancelled at this moment is no candidate.
                    row = session.scalars(first.with_for_update(skip_locked=True)).one_or_none()
                    if row is not None:
                        queue.turn += 1
                        return self._hand_out(session, row, queue.turn)
                del waiting[tenant]
            return None

    def _hand_out(self, session: Session, row: JobRow, turn: int) -> Job:
        row.attempt += 1
        row.batch = 0
        row.served = turn
        row.owner = self._owner
        row.started_at = row.started_at or naive_now()
        move_row(session, row, JobState.PREPARING)
        return snapshot(row)

    def seconds_to_next(self, claimed_at: datetime) -> float | None:
        """Returns when to look again, in seconds from now; None while nothing waits.

        Args:
            claimed_at: before the `claim` that found nothing. A job whose time came since then was not seen by it and may
                start at once; without this it would wait for LOOK_AGAIN_S.
        """
        queued = JobRow.state == JobState.QUEUED
        with self._jobs.begin() as session:
            if not session.scalar(select(func.count()).where(queued)):
                return None
            at = session.scalar(select(func.min(JobRow.not_before)).where(queued, JobRow.not_before > claimed_at))
        return LOOK_AGAIN_S if at is None else min(LOOK_AGAIN_S, max(0.0, (at - naive_now()).total_seconds()))


def _pause_is_over(now: datetime) -> ColumnElement[bool]:
    """Also of a pause longer than any that is given: the clock was ahead then and went back, and waiting could take days."""
    never = now + timedelta(seconds=LONGEST_PAUSE)
    return or_(JobRow.not_before.is_(None), JobRow.not_before <= now, JobRow.not_before > never)


def _by_tenant(session: Session, value: ColumnElement[int], *only: ColumnElement[bool]) -> dict[str, int]:
    """Returns an aggregate of jobs for every tenant that has any."""
    query = select(JobRow.tenant, value).where(*only).group_by(JobRow.tenant)
    return {row[0]: row[1] for row in session.execute(query)}
