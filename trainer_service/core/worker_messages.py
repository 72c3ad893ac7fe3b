"""What a worker process and its supervisor say to each other, and what a worker is told to do.

Owns the shapes: one JSON object a line on a pipe of its own (worker to supervisor), single words a line on the worker's
stdin (supervisor to worker). Imported by both sides, so it imports neither torch nor a database.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trainer_service.core.events import Evaluated, Notice, Published, StepDone
from trainer_service.core.recipe import Recipe
from trainer_service.core.states import FailureReason, JobState

GO_PUBLISH = "publish"
"""The supervisor's answer to ReadyToPublish: the job is PUBLISHING now and can no longer be cancelled."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    micro_batch_tokens: int
    """Padded tokens of one forward pass; a step's rows are cut into that many passes."""
    checkpoint_seconds: float
    """Also checkpoint after this time inside an epoch."""
    heartbeat_seconds: float


class Heartbeat(_Message):
    """The worker's interpreter is alive; sent from a thread."""

    kind: Literal["heartbeat"] = "heartbeat"


class Phase(_Message):
    """The worker moved on to another part of the work."""

    kind: Literal["phase"] = "phase"
    state: Literal[JobState.RUNNING, JobState.EVALUATING]


class ReadyToPublish(_Message):
    """Training is over; the worker publishes nothing before it has read GO_PUBLISH."""

    kind: Literal["ready_to_publish"] = "ready_to_publish"


class Finished(_Message):
    """All done: SUCCEEDED, or GATED with the reason."""

    kind: Literal["finished"] = "finished"
    state: Literal[JobState.SUCCEEDED, JobState.GATED]
    message: str = ""


class Failed(_Message):
    """The worker gives up, and knows why."""

    kind: Literal["failed"] = "failed"
    reason: FailureReason
    message: str


Message = Annotated[
    Heartbeat | Phase | ReadyToPublish | Finished | Failed | StepDone | Evaluated | Notice | Published,
    Field(discriminator="kind"),
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
