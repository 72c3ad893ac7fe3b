"""Jobs and their events in the database.

Owns every write to a job: a state change, its event and the event's number are one transaction, so numbers have no
gaps and a watcher can trust the newest one. What a worker reports is taken only for the attempt that the job is at,
so a worker whose job was given to somebody else can no longer say anything. Does not own who goes next (`queue`) or
who is told (`on_change`). All calls block; services make them in threads.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from trainer_service.core.database import Database
from trainer_service.core.errors import (
    AttemptOver,
    IdempotencyConflict,
    IllegalTransition,
    InvalidRequest,
    JobNotFound,
    QueueFull,
)
from trainer_service.core.events import (
    PAYLOAD,
    CheckpointSaved,
    Evaluated,
    JobEvent,
    Payload,
    Probed,
    Published,
    StateChanged,
    StepDone,
)
from trainer_service.core.job_record import Job, NewJob, aware, naive_now, row_of, snapshot
from trainer_service.core.schema import EventRow, JobRow, QueueRow
from trainer_service.core.states import ON_WORKER, RESUMABLE, TERMINAL, FailureReason, JobState, may_follow
from trainer_service.core.verdict import Verdict

DEFAULT_PAGE = 50
MAX_PAGE = 1000


class Jobs:
    """All jobs of all tenants."""

    def __init__(self, database: Database, on_change: Callable[[str], None] = lambda job: None) -> None:
        """`on_change` is called with the job's id after every commit, from the calling thread."""
        self.database, self.changed = database, on_change

    def begin(self) -> AbstractContextManager[Session]:
        """Opens a transaction; for this package's own modules. Raises DatabaseUnavailable."""
        return self.database.begin()

    def create(self, new: NewJob, notices: Iterable[Payload] = (), *, max_queued: int = 0) -> tuple[Job, bool]:
        """Admits a job as QUEUED, or returns the one that its idempotency key made before (and False).

        Args:
            new: the job.
            notices: its first events.
            max_queued: jobs that the tenant may have waiting; 0: any number.

        Raises:
            IdempotencyConflict: the key was used with another request.
            QueueFull: the tenant's limit is reached.
        """
        digest = hashlib.sha256(new.request.encode()).hexdigest()
        try:
            with self.begin() as session:
                known = self._by_key(session, new, digest)
                if known is not None:
                    return known, False
                lock_queue(session)
                _check_room(session, new.tenant, max_queued)
                row = row_of(new, digest)
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
                raise _missing(job)
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
                JobEvent(number=row.number, time=aware(row.at), payload=PAYLOAD.validate_python(row.payload))
                for row in session.scalars(query)
            ]

    def record(self, job: str, attempt: int, payloads: Sequence[Payload], batch: int) -> None:
        """Adds events that are no state changes, and what they say about the job, in one transaction.

        Args:
            job: its id.
            attempt: whose words these are.
            payloads: in order.
            batch: number of this call within the attempt, from 1. Again the same: an answer was lost, nothing is doubled.

        Raises:
            AttemptOver: the job is no longer at this attempt.
        """
        with self.begin() as session:
            row = _of_attempt(session, job, attempt)
            if row.batch >= batch:
                return
            row.batch = batch
            for payload in payloads:
                _note(row, payload)
            add_events(session, row, payloads)
        self.changed(job)

    def move(self, job: str, state: JobState, *, attempt: int | None = None) -> Job:
        """Moves a job on.

        Args:
            job: its id.
            state: where to.
            attempt: whose word this is; None: its owner's.

        Raises:
            IllegalTransition: the table in `states` has no such move.
            AttemptOver: the job is no longer at this attempt.
        """
        with self.begin() as session:
            row = locked(session, job) if attempt is None else _of_attempt(session, job, attempt)
            move_row(session, row, state)
            moved = snapshot(row)
        self.changed(job)
        return moved

    def conclude(self, job: str, attempt: int, judge: Callable[[Job], Verdict]) -> Job:
        """Ends an attempt: `judge` sees the job as it is now and says where it goes.

        Raises:
            AttemptOver: the job is no longer at this attempt.
        """
        with self.begin() as session:
            row = _of_attempt(session, job, attempt)
            verdict = judge(snapshot(row))
            move_row(session, row, verdict.state, reason=verdict.reason, message=verdict.message)
            row.failures, row.interruptions = verdict.failures, verdict.interruptions
            row.postponements, row.memory_failures = verdict.postponements, verdict.memory_failures
            row.micro_batch_tokens = verdict.micro_batch_tokens
            row.failed_at_step = row.checkpoint_step
            row.not_before = naive_now() + timedelta(seconds=verdict.delay) if verdict.delay else None
            moved = snapshot(row)
        self.changed(job)
        return moved

    def resume(self, tenant: str, job: str, *, max_queued: int = 0) -> Job:
        """Queues a job that failed or was cancelled; one that has not ended is returned as it is.

        Raises:
            JobNotFound: the tenant has no such job.
            IllegalTransition: it has ended well.
            QueueFull: the tenant's limit is reached.
        """
        self.get(tenant, job)
        with self.begin() as session:
            # The queue before the job, as everywhere: two that took them the other way round would wait for each other.
            lock_queue(session)
            row = locked(session, job)
            if row.state not in TERMINAL:
                return snapshot(row)
            if row.state not in RESUMABLE:
                raise IllegalTransition(f"job {job} is {row.state}: there is nothing left to do")
            _check_room(session, tenant, max_queued)
            row.ended_at = row.not_before = None
            row.failures = row.interruptions = row.postponements = row.memory_failures = 0
            set_state(session, row, JobState.QUEUED, message="resumed by its owner")
            resumed = snapshot(row)
        self.changed(job)
        return resumed

    def cancelling(self, owner: str) -> Sequence[str]:
        """Returns the jobs of one service that are being cancelled, perhaps by a call to another service."""
        query = select(JobRow.id).where(JobRow.owner == owner, JobRow.state == JobState.CANCELLING)
        with self.begin() as session:
            return session.scalars(query).all()

    def without_future(self, ids: Sequence[str], keep: timedelta) -> Sequence[str]:
        """Returns which of some jobs will not go on: ended well, or otherwise and longer ago than `keep`."""
        long_ago = JobRow.ended_at < naive_now() - keep
        over = or_(JobRow.state.in_(TERMINAL - RESUMABLE), and_(JobRow.state.in_(RESUMABLE), long_ago))
        with self.begin() as session:
            return session.scalars(select(JobRow.id).where(JobRow.id.in_(ids), over)).all()

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


def lock_queue(session: Session) -> QueueRow:
    """Makes this transaction the only one that may change who waits; see `schema.QueueRow`."""
    return session.scalars(select(QueueRow).with_for_update()).one()


def move_row(
    session: Session, row: JobRow, state: JobState, *, reason: FailureReason | None = None, message: str = ""
) -> None:
    """Changes a locked row's state and writes the event; raises IllegalTransition."""
    if not may_follow(JobState(row.state), state):
        raise IllegalTransition(f"job {row.id} is {row.state} and cannot become {state}")
    if state in (JobState.CANCELLING, JobState.CANCELLED) and row.may_have_published:
        raise IllegalTransition(
            f"job {row.id} has begun to publish, so 'cancelled' could be untrue; "
            "let it end, then `graft adapter rollback` takes its alias back"
        )
    row.may_have_published = row.may_have_published or state == JobState.PUBLISHING
    set_state(session, row, state, reason=reason, message=message)


def set_state(
    session: Session, row: JobRow, state: JobState, *, reason: FailureReason | None = None, message: str = ""
) -> None:
    """Writes a state and its event, whatever the table of moves says."""
    row.state, row.failure_reason, row.message = state, reason, message
    if state in TERMINAL:
        row.ended_at = naive_now()
    change = StateChanged(state=state, failure_reason=reason, message=message, attempt=row.attempt)
    add_events(session, row, [change])


def add_events(session: Session, row: JobRow, payloads: Iterable[Payload]) -> None:
    """Numbers payloads and adds them; the row must be locked, or two transactions would take the same number."""
    for payload in payloads:
        row.last_event += 1
        event = EventRow(
            job_seq=row.seq, number=row.last_event, at=naive_now(), payload=payload.model_dump(mode="json")
        )
        session.add(event)


def _of_attempt(session: Session, job: str, attempt: int) -> JobRow:
    row = locked(session, job)
    if row.attempt != attempt or row.state not in ON_WORKER:
        raise AttemptOver(f"attempt {attempt} of job {job} is over: the job is {row.state} at attempt {row.attempt}")
    return row


def _check_room(session: Session, tenant: str, max_queued: int) -> None:
    if not max_queued:
        return
    query = select(func.count()).where(JobRow.tenant == tenant, JobRow.state == JobState.QUEUED)
    if (waiting := session.scalar(query) or 0) >= max_queued:
        raise QueueFull(
            f"tenant {tenant} has {waiting} jobs waiting, at most {max_queued} are allowed: "
            "wait for one to start, or cancel one"
        )


def _missing(job: str) -> JobNotFound:
    return JobNotFound(f"job {job} does not exist; list jobs to see what does")


def _note(row: JobRow, payload: Payload) -> None:
    """Keeps on the job what its newest events say."""
    match payload:
        case StepDone():
            row.step, row.total_steps = payload.step, payload.total_steps
        case Evaluated():
            row.evaluated_step = payload.step
            if payload.is_base:
                row.base_eval_loss = payload.loss
            else:  # the best epoch is the one that is published, so its loss is the job's
                row.eval_loss = min(payload.loss, row.eval_loss or payload.loss)
        case CheckpointSaved():
            row.checkpoint_step = payload.step
        case Published():
            row.version, row.alias_number = payload.version, payload.alias_number
        case Probed():
            row.probe_outcome, row.probe_message = payload.outcome, payload.message
