"""What a worker process and its supervisor say to each other, and what a worker is told to do.

Owns the shapes: one JSON object a line on a pipe of its own (worker to supervisor), single words a line on the worker's
stdin (supervisor to worker). Imported by both sides, so it imports neither torch nor a database.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trainer_service.core.events import (
    CheckpointSaved,
    Estimated,
    Evaluated,
    Measured,
    Notice,
    Probed,
    Published,
    StepDone,
)
from trainer_service.core.recipe import Fleet, Recipe
from trainer_service.core.states import FailureReason, JobState

GO_PUBLISH = "publish"
"""The supervisor's answer to ReadyToPublish: the job is PUBLISHING now and can no longer be cancelled."""
SETTLED = "settled"
"""The supervisor's answer to Settle, followed by its number."""
LEASE = "lease"
"""The supervisor's word, followed by a time of the machine's monotonic clock: the worker ends itself then, unless a later
time arrives before. Another service may take the job over after that."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeSpec(_Message):
    """Where the serving service is that the published version is compared on."""

    mode: Literal["require", "when-available"]
    address: str = ""
    """`host:port`; empty: `address_file` holds it."""
    address_file: Path | None = None
    """Written by the serving service, and again after each of its starts."""
    operator_key_file: Path
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    wait_seconds: float
    """How long to wait for a service that does not answer."""


class WorkerSpec(_Message):
    """One job, as its worker process needs it. Holds the store's URL, so the file is readable by its owner only."""

    job: str
    tenant: str
    adapter: str
    alias: str
    dataset: str
    recipe: Recipe
    publish_anyway: bool
    attempt: int
    backbone: Path
    """Folder of the base model."""
    store_url: str
    work_dir: Path
    """The job's own folder: checkpoints, log, lock. Survives attempts."""
    device: Literal["cpu", "cuda"]
    threads: int
    """Of all its processes together."""
    devices: int = 1
    """GPUs of this machine that share the job's steps, a process each; on a CPU processes."""
    micro_batch_tokens: int
    """Tokens of one forward pass; a step's rows are cut into that many passes."""
    checkpoint_seconds: float
    """Also checkpoint after this time inside an epoch."""
    heartbeat_seconds: float
    signing_key_file: Path | None = None
    """What the version is signed with; None leaves it unsigned."""
    audit_folder: Path | None = None
    """The service's outbox, where entries of the audit log are left for it; None: they go to the store, in no chain."""
    fleet: Fleet = Fleet()
    """What estimates are made from."""
    calibrations: Path | None = None
    """Folder where measured speeds are kept; None: nowhere."""
    lease_until: float | None = None
    """See LEASE; None: the job is nobody else's in any case."""
    store_patience_seconds: float = 30.0
    """How long the worker itself waits for a store that is away, before it gives its place up."""
    probe: ProbeSpec | None = None
    """None: no serving service is configured."""


class Heartbeat(_Message):
    """The worker's interpreter is alive; sent from a thread."""

    kind: Literal["heartbeat"] = "heartbeat"


class Phase(_Message):
    """The worker moved on to another part of the work."""

    kind: Literal["phase"] = "phase"
    state: Literal[JobState.RUNNING, JobState.EVALUATING]


class Settle(_Message):
    """The worker is about to write a checkpoint, and waits until everything it said before is in the job's history."""

    kind: Literal["settle"] = "settle"
    number: int


class ReadyToPublish(_Message):
    """Training is over; the worker publishes nothing before it has read GO_PUBLISH."""

    kind: Literal["ready_to_publish"] = "ready_to_publish"


class Finished(_Message):
    """All done: SUCCEEDED, or GATED with the reason."""

    kind: Literal["finished"] = "finished"
    state: Literal[JobState.SUCCEEDED, JobState.GATED]
    message: str = ""


class Postponed(_Message):
    """The worker gives way: what it needs (the store) is away. Not the job's fault, so it costs no attempt."""

    kind: Literal["postponed"] = "postponed"
    message: str


class Failed(_Message):
    """The worker gives up, and knows why."""

    kind: Literal["failed"] = "failed"
    reason: FailureReason
    message: str


Ended = Finished | Failed | Postponed
"""A worker's last message."""

Message = Annotated[
    Heartbeat
    | Phase
    | Settle
    | ReadyToPublish
    | Finished
    | Failed
    | Postponed
    | StepDone
    | Evaluated
    | CheckpointSaved
    | Notice
    | Published
    | Probed
    | Estimated
    | Measured,
    Field(discriminator="kind"),
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
