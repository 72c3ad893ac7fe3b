"""A job outside of its transaction: what creates one, and what it looks like at one moment.

Owns the copy between a row and the plain types. Does not own any write (`jobs`).
"""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from trainer_service.core.events import ProbeOutcome
from trainer_service.core.recipe import Recipe
from trainer_service.core.schema import JobRow
from trainer_service.core.states import FailureReason, JobState

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
    priority: int = 0
    """Among the tenant's own jobs; higher goes first."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as of one moment; see `schema.JobRow` for the fields that are not plain."""

    seq: int
    id: str
    tenant: str
    dataset: str
    adapter: str
    alias: str
    recipe: Recipe
    publish_anyway: bool
    priority: int
    state: JobState
    failure_reason: FailureReason | None
    message: str
    version: str
    alias_number: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    owner: str | None
    attempt: int
    may_have_published: bool
    failures: int
    interruptions: int
    postponements: int
    memory_failures: int
    failed_at_step: int
    micro_batch_tokens: int | None
    last_event: int
    base_eval_loss: float
    eval_loss: float
    step: int
    total_steps: int
    evaluated_step: int
    checkpoint_step: int
    probe_outcome: ProbeOutcome | None
    probe_message: str


_AS_THEY_ARE = (
    "seq", "id", "tenant", "dataset", "adapter", "alias", "publish_anyway", "priority", "message", "version",
    "alias_number", "owner", "attempt", "may_have_published", "failures", "interruptions", "postponements",
    "memory_failures", "failed_at_step", "micro_batch_tokens", "last_event", "base_eval_loss", "eval_loss", "step",
    "total_steps", "evaluated_step", "checkpoint_step", "probe_message",
)  # fmt: skip


def snapshot(row: JobRow) -> Job:
    """Copies a row out of its transaction."""
    return Job(
        recipe=Recipe.model_validate(row.recipe),
        state=JobState(row.state),
        failure_reason=FailureReason(row.failure_reason) if row.failure_reason else None,
        probe_outcome=ProbeOutcome(row.probe_outcome) if row.probe_outcome else None,
        created_at=aware(row.created_at),
        started_at=aware(row.started_at) if row.started_at else None,
        ended_at=aware(row.ended_at) if row.ended_at else None,
        **{name: getattr(row, name) for name in _AS_THEY_ARE},
    )


def row_of(new: NewJob, digest: str) -> JobRow:
    """Returns a QUEUED row with a fresh id; columns that have a default keep it."""
    train_rows, _ = new.recipe.split(new.rows)
    return JobRow(
        id=new_id(),
        tenant=new.tenant,
        dataset=new.dataset,
        adapter=new.adapter,
        alias=new.alias,
        recipe=new.recipe.model_dump(mode="json"),
        rows=new.rows,
        publish_anyway=new.publish_anyway,
        priority=new.priority,
        idempotency_key=new.idempotency_key or None,
        request_digest=digest,
        state=JobState.QUEUED,
        created_at=naive_now(),
        total_steps=new.recipe.total_steps(train_rows),
    )


def new_id() -> str:
    """Returns a ULID in lower case: 48 bits of time, 80 random bits, sortable by creation."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_BASE32[value >> shift & 31] for shift in range(125, -5, -5))


def naive_now() -> datetime:
    """Returns the time as the database keeps it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def aware(moment: datetime) -> datetime:
    """Returns a kept time with its zone."""
    return moment.replace(tzinfo=UTC)
