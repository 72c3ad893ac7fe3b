"""Training jobs: what is known of one, and the calls that give it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call, Listing, Stream
from graftwork.sdk.job_states import FailureReason, JobState, ProbeOutcome, read_reason, read_state
from graftwork.sdk.names import last_id, tenant_of
from graftwork.sdk.reading import read_enum, read_fields, read_time
from graftwork.sdk.recipe import Recipe
from graftwork.v1 import trainer_pb2 as pb

WATCH_PAUSE_S = 0.5
"""Before a broken watch is taken up again."""
WATCH_PATIENCE_S = 60.0
"""How long the service may be away from a watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as it was when asked for.

    Attributes:
        name: `tenants/acme/jobs/01J...`.
        dataset: `tenants/acme/datasets/ds-...`. adapter: `tenants/acme/adapters/support`.
        alias: that moves to the new version on success.
        recipe: as resolved: every field is set.
        state: where it is. message: why it failed, was gated or cancelled. failure_reason: None unless it failed.
        version: digest of the published version; empty until there is one.
        created, started, ended: UTC; None while it has not come to that.
        attempt: of the worker process, from 1. last_event: number of the newest event.
        base_eval_loss, eval_loss: on the held-out rows, nats a token; 0.0 until measured.
        step, total_steps: of the training. checkpoint_step: where it goes on after a crash or a resumption.
        priority: among the tenant's own jobs; higher goes first.
        probe_outcome, probe_message: see `ProbeOutcome`.
    """

    name: str
    dataset: str
    adapter: str
    alias: str
    recipe: Recipe
    state: JobState
    failure_reason: FailureReason | None
    message: str
    version: str
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    attempt: int
    last_event: int
    base_eval_loss: float
    eval_loss: float
    step: int
    total_steps: int
    checkpoint_step: int
    priority: int
    probe_outcome: ProbeOutcome
    probe_message: str

    @property
    def id(self) -> str:
        """The name's last part."""
        return last_id(self.name)

    @property
    def tenant(self) -> str:
        """Whose."""
        return tenant_of(self.name)

    @classmethod
    def of(cls, message: pb.Job) -> "JobRecord":
        same = read_fields(
            message,
            "name dataset adapter alias message version attempt last_event base_eval_loss eval_loss step total_steps "
            "checkpoint_step priority probe_message",
        )
        return cls(
            **same,
            recipe=Recipe.of(message.recipe),
            state=read_state(message.state),
            failure_reason=read_reason(message.failure_reason),
            created=read_time(message, "create_time"),
            started=read_time(message, "start_time"),
            ended=read_time(message, "end_time"),
            probe_outcome=read_enum(ProbeOutcome, pb.ProbeOutcome, message.probe_outcome, "PROBE_OUTCOME_"),
        )


@dataclass(frozen=True, slots=True)
class TrainerInfo:
    """The trainer.

    Attributes:
        version: of Graftwork. base_model, base_digest: the backbone that jobs train on.
        running_jobs, queued_jobs: of all tenants.
    """

    version: str
    base_model: str
    base_digest: str
    running_jobs: int
    queued_jobs: int

    @classmethod
    def of(cls, message: pb.TrainerInfo) -> "TrainerInfo":
        return cls(**read_fields(message, "version base_model base_digest running_jobs queued_jobs"))


class JobNotSucceeded(GraftError):
    """A job ended otherwise than well.

    Attributes:
        job: as it ended.
    """

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION

    def __init__(self, job: JobRecord) -> None:
        why = f" ({job.failure_reason.replace('_', ' ')})" if job.failure_reason else ""
        super().__init__(f"job {job.id} ended {job.state}{why}: {job.message or 'the service gave no reason'}")
        self.job = job


class WaitTimedOut(GraftError):
    """A job had not ended in the time that the caller gave; it goes on."""

    code: ClassVar[ErrorCode] = ErrorCode.DEADLINE


def timed_out(name: str, timeout: float) -> WaitTimedOut:
    return WaitTimedOut(
        f"job {last_id(name)} has not ended after {timeout:g} s; it goes on, and can be waited for again"
    )


def create_job(
    parent: str,
    dataset: str,
    adapter: str,
    recipe: Recipe,
    *,
    alias: str,
    publish_anyway: bool,
    priority: int,
    idempotency_key: str,
) -> Call[JobRecord]:
    request = pb.CreateJobRequest(
        parent=parent,
        dataset=dataset,
        adapter_id=adapter,
        alias=alias,
        recipe=recipe.message(),
        idempotency_key=idempotency_key or uuid.uuid4().hex,
        publish_anyway=publish_anyway,
        priority=priority,
    )
    return Call(Api.TRAINER, "CreateJob", request, JobRecord.of)


def get_job(name: str) -> Call[JobRecord]:
    return Call(Api.TRAINER, "GetJob", pb.GetJobRequest(name=name), JobRecord.of)


def list_jobs(parent: str) -> Listing[JobRecord]:
    return Listing(
        Api.TRAINER,
        "ListJobs",
        lambda token: pb.ListJobsRequest(parent=parent, page_token=token),
        lambda page: [JobRecord.of(item) for item in page.jobs],
    )


def cancel_job(name: str) -> Call[JobRecord]:
    return Call(Api.TRAINER, "CancelJob", pb.CancelJobRequest(name=name), JobRecord.of)


def resume_job(name: str) -> Call[JobRecord]:
    return Call(Api.TRAINER, "ResumeJob", pb.ResumeJobRequest(name=name), JobRecord.of)


def watch_job(name: str, after: int, timeout: float | None) -> Stream:
    return Stream(Api.TRAINER, "WatchJob", pb.WatchJobRequest(name=name, after=after), timeout)


def read_job_log(name: str, last_bytes: int) -> Stream:
    return Stream(Api.TRAINER, "ReadJobLog", pb.ReadJobLogRequest(name=name, last_bytes=last_bytes), FILE_TIMEOUT_S)


def get_trainer_info() -> Call[TrainerInfo]:
    return Call(Api.TRAINER, "GetTrainerInfo", pb.GetTrainerInfoRequest(), TrainerInfo.of)
