"""Tables of the trainer's database, as SQLAlchemy sees them. `migrations` makes them; `jobs`, `queue` and `lease` use
them.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers only INTEGER primary keys by itself.
_Serial = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Registry of the tables."""

    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012  # SQLAlchemy reads it off the class


class JobRow(Base):
    """One job. Times are naive UTC: SQLite keeps no zone."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_idempotency"),
        Index("ix_jobs_state", "state", "tenant"),
        Index("ix_jobs_tenant", "tenant", "seq"),
    )

    seq: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    """Order of creation."""
    id: Mapped[str] = mapped_column(unique=True)
    tenant: Mapped[str]
    dataset: Mapped[str]
    adapter: Mapped[str]
    alias: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    rows: Mapped[int]
    publish_anyway: Mapped[bool]
    priority: Mapped[int] = mapped_column(default=0)
    """Among its tenant's jobs; higher goes first."""
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[str]
    """Of the request, to tell a repeated one from another one under the same key."""
    state: Mapped[str]
    failure_reason: Mapped[str | None]
    message: Mapped[str] = mapped_column(default="")
    version: Mapped[str] = mapped_column(default="")
    alias_number: Mapped[int] = mapped_column(_Serial, default=0)
    """Record by which the job moved its alias; 0: it moved none."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    owner: Mapped[str | None]
    """Service that runs the job, or ran it last."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Worker processes started. What a worker reports is taken only while this is its number."""
    batch: Mapped[int] = mapped_column(default=0)
    """Of what the attempt's worker reported, the last part that is written."""
    may_have_published: Mapped[bool] = mapped_column(default=False)
    """A worker was allowed to publish once: from then on 'cancelled' could be untrue."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that ended in a SYSTEM_ERROR; a stop of the service is none."""
    interruptions: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that were ended from outside."""
    postponements: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that gave way because the store was away."""
    memory_failures: Mapped[int] = mapped_column(default=0)
    failed_at_step: Mapped[int] = mapped_column(default=0)
    """Step of the newest checkpoint at the last of those; a newer one begins the counts anew."""
    micro_batch_tokens: Mapped[int | None]
    """Smaller than the service's own since the memory was too small for that one."""
    served: Mapped[int] = mapped_column(_Serial, default=0)
    """Number of the newest turn given to the job, over all jobs; the queue's fairness reads it."""
    not_before: Mapped[datetime | None]
    """Back-off after a failure."""
    last_event: Mapped[int] = mapped_column(_Serial, default=0)
    base_eval_loss: Mapped[float] = mapped_column(default=0.0)
    eval_loss: Mapped[float] = mapped_column(default=0.0)
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int] = mapped_column(default=0)
    evaluated_step: Mapped[int] = mapped_column(default=-1)
    """Step of the newest evaluation; -1: none yet."""
    checkpoint_step: Mapped[int] = mapped_column(default=0)
    probe_outcome: Mapped[str] = mapped_column(default="")
    probe_message: Mapped[str] = mapped_column(default="")


class EventRow(Base):
    """One event of a job."""

    __tablename__ = "events"

    job_seq: Mapped[int] = mapped_column(_Serial, ForeignKey("jobs.seq"), primary_key=True)
    number: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    payload: Mapped[dict[str, Any]]


class QueueRow(Base):
    """The queue's only row. Locking it makes changes of the queue's shape (a new job, a claim) one after the other, so that
    limits hold exactly whoever asks at the same time."""

    __tablename__ = "queue"

    id: Mapped[int] = mapped_column(primary_key=True)
    turn: Mapped[int] = mapped_column(_Serial)
    """Turns given so far."""


class ServiceRow(Base):
    """A service that runs jobs of this database. What it runs is its own until the lease is over."""

    __tablename__ = "services"

    id: Mapped[str] = mapped_column(primary_key=True)
    lease_until: Mapped[datetime]
    """By the database's own clock."""
