"""Tables of the trainer's database, as SQLAlchemy sees them. `migrations` makes them; `jobs` uses them."""

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
        Index("ix_jobs_state", "state"),
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
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[str]
    """Of the request, to tell a repeated one from another one under the same key."""
    state: Mapped[str]
    failure_reason: Mapped[str | None]
    message: Mapped[str] = mapped_column(default="")
    version: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Worker processes started."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts that ended in a SYSTEM_ERROR; a stop of the service is none."""
    served: Mapped[int] = mapped_column(_Serial, default=0)
    """Number of the newest turn given to the job, over all jobs; the queue's fairness reads it."""
    not_before: Mapped[datetime | None]
    """Back-off after a failure."""
    last_event: Mapped[int] = mapped_column(_Serial, default=0)
    base_eval_loss: Mapped[float] = mapped_column(default=0.0)
    eval_loss: Mapped[float] = mapped_column(default=0.0)
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int] = mapped_column(default=0)


class EventRow(Base):
    """One event of a job."""

    __tablename__ = "events"

    job_seq: Mapped[int] = mapped_column(_Serial, ForeignKey("jobs.seq"), primary_key=True)
    number: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    payload: Mapped[dict[str, Any]]
