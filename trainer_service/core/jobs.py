"""Jobs and their events in the database.

Owns every write to a job: a state change, its event and the event's number are one transaction, so numbers have no gaps
and a watcher can trust the newest one. Does not own who goes next (`queue`) or who is told (`on_change`).
All calls block; services make them in threads.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from trainer_service.core.errors import IdempotencyConflict, IllegalTransition, InvalidRequest, JobNotFound
from trainer_service.core.events import PAYLOAD, Evaluated, JobEvent, Payload, Published, StateChanged, StepDone
from trainer_service.core.recipe import Recipe
from trainer_service.core.schema import EventRow, JobRow
from trainer_service.core.states import ON_WORKER, TERMINAL, FailureReason, JobState, may_follow

DEFAULT_PAGE = 50
MAX_PAGE = 1000
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What creates a job."""

    tenant: str
    dataset: str
    adapter: str
    alias: str
    recipe: Recipe
    rows: int
    publish_anyway: bool
    idempotency_key: str
    """Empty: none."""
    request: str
    """The request as sent, in one canonical text; only its digest is kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as of one moment."""

    seq: int
    id: str
    tenant: str
    dataset: str
    adapter: str
    alias: str
    recipe: Recipe
    publish_anyway: bool
    state: JobState
    failure_reason: FailureReason | None
    message: str
    version: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempt: int
    failures: int
    last_event: int
    base_eval_loss: float
    eval_loss: float
    step: int
    total_steps: int


class Jobs:
    """All jobs of all tenants."""

    def __init__(self, engine: Engine, on_change: Callable[[str], None] = lambda job: None) -> None:
        """`on_change` is called with the job's id after every commit, from the calling thread."""
        self._sessions = sessionmaker(engine)
        self.changed = on_change

    def begin(self) -> AbstractContextManager[Session]:
        """Opens a transaction; for this package's own modules."""
        return self._sessions.begin()

    def create(self, new: NewJob, notices: Iterable[Payload] = ()) -> tuple[Job, bool]:
        """Admits a job as QUEUED, or returns the one that its idempotency key made before (and False).

        Raises:
            IdempotencyConflict: the key was used with another request.
        """
        digest = hashlib.sha256(new.request.encode()).hexdigest()
        try:
            with self.begin() as session:
                known = self._by_key(session, new, digest)
                if known is not None:
                    return known, False
                row = _row_of(new, digest)
                session.add(row)
                session.flush()
                add_events(session, row, [*notices, StateChanged(state=JobState.QUEUED)])
                job = snapshot(row)
        except IntegrityError:  # a twin of this call was faster
            with self.begin() as session:
                known = self._by_key(session, new, digest)
            if known is None:
                raise
            return known, False
        self.changed(job.id)
        return job, True

    def _by_key(self, session: Session, new: NewJob, digest: str) -> Job | None:
        if not new.idempotency_key:
            return None
        query = select(JobRow).filter_by(tenant=new.tenant, idempotency_key=new.idempotency_key)
        row = session.scalars(query).one_or_none()
        if row is not None and row.request_digest != digest:
            raise IdempotencyConflict(
                f"idempotency key was used for job {row.id} with another request; use a new key for a new job"
            )
        return snapshot(row) if row is not None else None

    def get(self, tenant: str, job: str) -> Job:
        """Raises JobNotFound when the tenant has no such job."""
        with self.begin() as session:
            row = session.scalars(select(JobRow).filter_by(tenant=tenant, id=job)).one_or_none()
            if row is None:
                raise JobNotFound(f"tenants/{tenant}/jobs/{job} does not exist; list jobs to see what does")
            return snapshot(row)

    def list(self, tenant: str | None, page_size: int, page_token: str) -> tuple[Sequence[Job], str]:
        """Returns a page of jobs, newest first, and the next page's token ("" at the end); None: of all tenants."""
        size = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        if size < 0 or not (page_token == "" or (page_token.isascii() and page_token.isdigit())):
            raise InvalidRequest("page_size or page_token is not one that this service gave; start from the first page")
        query = select(JobRow).order_by(JobRow.seq.desc()).limit(size + 1)
        if tenant is not None:
            query = query.where(JobRow.tenant == tenant)
        if page_token:
            query = query.where(JobRow.seq < int(page_token[:18]))
        with self.begin() as session:
            jobs = [snapshot(row) for row in session.scalars(query)]
        return jobs[:size], str(jobs[size - 1].seq) if len(jobs) > size else ""

    def events(self, job: Job, after: int, limit: int) -> Sequence[JobEvent]:
        """Returns the job's events with a number above `after`, in order, at most `limit`."""
        query = (
            select(EventRow)
            .where(EventRow.job_seq == job.seq, EventRow.number > after)
            .order_by(EventRow.number)
            .limit(limit)
        )
        with self.begin() as session:
            return [
                JobEvent(number=row.number, time=_aware(row.at), payload=PAYLOAD.validate_python(row.payload))
                for row in session.scalars(query)
            ]

    def append(self, job: str, payload: Payload) -> None:
        """Adds an event that is no state change, and what it says about the job."""
        with self.begin() as session:
            row = locked(session, job)
            _note(row, payload)
            add_events(session, row, [payload])
        self.changed(job)

    def move(
        self,
        job: str,
        state: JobState,
        *,
        reason: FailureReason | None = None,
        message: str = "",
        failed_attempt: bool = False,
        delay: float = 0.0,
    ) -> Job:
        """Moves a job to another state.

        Args:
            job: its id.
            state: where to.
            reason: of a failure.
            message: for its owner.
            failed_attempt: counts this as one of the attempts that a job has.
            delay: seconds before a QUEUED job may start again.

        Raises:
            IllegalTransition: the table in `states` has no such move.
        """
        with self.begin() as session:
            row = locked(session, job)
            move_row(session, row, state, reason=reason, message=message)
            row.failures += failed_attempt
            row.not_before = _now() + timedelta(seconds=delay) if delay else None
            moved = snapshot(row)
        self.changed(job)
        return moved

    def recover(self) -> Sequence[Job]:
        """After a start: whatever a worker of the last service held is queued again, or was being cancelled."""
        moved = []
        with self.begin() as session:
            for row in session.scalars(select(JobRow).where(JobRow.state.in_(ON_WORKER)).order_by(JobRow.seq)):
                cancelling = row.state == JobState.CANCELLING
                target = JobState.CANCELLED if cancelling else JobState.QUEUED
                move_row(session, row, target, message="" if cancelling else "the service was restarted")
                moved.append(snapshot(row))
        return moved

    def counts(self) -> tuple[int, int]:
        """Returns how many jobs have a worker and how many wait."""
        with self.begin() as session:
            query = select(JobRow.state, func.count()).group_by(JobRow.state)
            by_state = {row[0]: row[1] for row in session.execute(query)}
        running = sum(number for state, number in by_state.items() if state in ON_WORKER)
        return running, by_state.get(JobState.QUEUED, 0)


def locked(session: Session, job: str) -> JobRow:
    """Loads a job's row for writing; nobody else writes it before the transaction ends."""
    row = session.scalars(select(JobRow).filter_by(id=job).with_for_update()).one_or_none()
    if row is None:
        raise JobNotFound(f"job {job} does not exist")
    return row


def move_row(
    session: Session, row: JobRow, state: JobState, *, reason: FailureReason | None = None, message: str = ""
) -> None:
    """Changes a locked row's state and writes the event; raises IllegalTransition."""
    if not may_follow(JobState(row.state), state):
        raise IllegalTransition(f"job {row.id} is {row.state} and cannot become {state}")
    row.state, row.failure_reason, row.message = state, reason, message
    if state in TERMINAL:
        row.ended_at = _now()
    change = StateChanged(state=state, failure_reason=reason, message=message, attempt=row.attempt)
    add_events(session, row, [change])


def add_events(session: Session, row: JobRow, payloads: Iterable[Payload]) -> None:
    """Numbers payloads and adds them; the row must be locked, or two transactions would take the same number."""
    for payload in payloads:
        row.last_event += 1
        event = EventRow(job_seq=row.seq, number=row.last_event, at=_now(), payload=payload.model_dump(mode="json"))
        session.add(event)


def snapshot(row: JobRow) -> Job:
    """Copies a row out of its transaction."""
    return Job(
        seq=row.seq,
        id=row.id,
        tenant=row.tenant,
        dataset=row.dataset,
        adapter=row.adapter,
        alias=row.alias,
        recipe=Recipe.model_validate(row.recipe),
        publish_anyway=row.publish_anyway,
        state=JobState(row.state),
        failure_reason=FailureReason(row.failure_reason) if row.failure_reason else None,
        message=row.message,
        version=row.version,
        created_at=_aware(row.created_at),
        started_at=_aware(row.started_at) if row.started_at else None,
        ended_at=_aware(row.ended_at) if row.ended_at else None,
        attempt=row.attempt,
        failures=row.failures,
        last_event=row.last_event,
        base_eval_loss=row.base_eval_loss,
        eval_loss=row.eval_loss,
        step=row.step,
        total_steps=row.total_steps,
    )


def _row_of(new: NewJob, digest: str) -> JobRow:
    train_rows, _ = new.recipe.split(new.rows)
    return JobRow(
        id=_new_id(),
        tenant=new.tenant,
        dataset=new.dataset,
        adapter=new.adapter,
        alias=new.alias,
        recipe=new.recipe.model_dump(mode="json"),
        rows=new.rows,
        publish_anyway=new.publish_anyway,
        idempotency_key=new.idempotency_key or None,
        request_digest=digest,
        state=JobState.QUEUED,
        message="",
        version="",
        created_at=_now(),
        attempt=0,
        failures=0,
        served=0,
        last_event=0,
        base_eval_loss=0.0,
        eval_loss=0.0,
        step=0,
        total_steps=new.recipe.total_steps(train_rows),
    )


def _note(row: JobRow, payload: Payload) -> None:
    """Keeps on the job what its newest events say."""
    if isinstance(payload, StepDone):
        row.step, row.total_steps = payload.step, payload.total_steps
    elif isinstance(payload, Evaluated) and payload.is_base:
        row.base_eval_loss = payload.loss
    elif isinstance(payload, Evaluated):
        # The best epoch is the one that is published, so its loss is the job's.
        row.eval_loss = min(payload.loss, row.eval_loss or payload.loss)
    elif isinstance(payload, Published):
        row.version = payload.version


def _new_id() -> str:
    """Returns a ULID in lower case: 48 bits of time, 80 random bits, sortable by creation."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_BASE32[value >> shift & 31] for shift in range(125, -5, -5))


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
