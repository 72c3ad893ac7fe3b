"""What happens to a job, as numbered events: the payloads, shared by worker, database and API.

Owns the shapes. Numbers are given by `jobs` in the transaction that changes the state; waking watchers is `watch`'s.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trainer_service.core.states import FailureReason, JobState


class NoticeLevel(StrEnum):
    """How much a notice matters."""

    INFO = "info"
    WARNING = "warning"


class _Payload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StateChanged(_Payload):
    """The job moved to `state`."""

    kind: Literal["state_changed"] = "state_changed"
    state: JobState
    failure_reason: FailureReason | None = None
    message: str = ""
    attempt: int = 0


class StepDone(_Payload):
    """One optimizer step; of a long job several (`journal`): then the figures are their means, and the newest rate."""

    kind: Literal["step_done"] = "step_done"
    step: int
    """The newest step that the event stands for."""
    total_steps: int
    loss: float
    """Mean over the supervised tokens of the step."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens_per_second: float
    """Real tokens; padding is not counted."""
    epoch: float
    steps: int = 1
    """How many steps the event stands for, up to `step`."""
    device_memory_bytes: int = 0
    """Most that the training held: of the GPU's memory, or of the machine's on a CPU; 0: not known."""


class Evaluated(_Payload):
    """The held-out loss after `step` steps."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    loss: float
    """Mean over the supervised tokens of the held-out rows."""
    is_base: bool


class CheckpointSaved(_Payload):
    """The job can go on from `step`, whatever happens to its worker."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int


class Notice(_Payload):
    """Something the owner of the job should know; never row text."""

    kind: Literal["notice"] = "notice"
    level: NoticeLevel
    message: str


class Published(_Payload):
    """A version is in the store; `alias` is empty when none was moved."""

    kind: Literal["published"] = "published"
    version: str
    alias: str = ""
    alias_number: int = 0


class Estimated(_Payload):
    """What the job is going to take, from its own rows; said before the backbone is loaded."""

    kind: Literal["estimated"] = "estimated"
    tokens: int
    """That go through the model in training, over all epochs."""
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    peak_bytes: int
    """Of the device's memory; on a CPU of the process."""
    seconds: float
    """Training and evaluations."""
    measured_speed: bool
    """False: nothing was measured on this device yet, and `seconds` is a guess."""


class Measured(_Payload):
    """What the attempt that ended the training took, beside what was predicted for just this part of it."""

    kind: Literal["measured"] = "measured"
    steps: int
    """Of this attempt; fewer than the job's after a crash."""
    seconds: float
    predicted_seconds: float
    peak_bytes: int
    predicted_peak_bytes: int
    measured_speed: bool


class ProbeOutcome(StrEnum):
    """What came of asking the serving service. Values are stored in the database."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class Probed(_Payload):
    """The published version, as the serving service answers with it, against the trainer's own model.

    Distances are means of |difference of log-probability| over the response tokens of the probe rows, in nats; 0 when the
    probe was skipped.
    """

    kind: Literal["probed"] = "probed"
    outcome: ProbeOutcome
    message: str
    """Why it was skipped or failed, or what was compared."""
    rows: int = 0
    tokens: int = 0
    distance: float = 0.0
    """Served adapter to the trainer's model with the adapter."""
    tolerance: float = 0.0
    """Largest distance that passes."""
    base_distance: float = 0.0
    """Served base to the trainer's base: what the two engines differ by without an adapter."""
    effect: float = 0.0
    """Served adapter to served base."""


Payload = Annotated[
    StateChanged | StepDone | Evaluated | CheckpointSaved | Notice | Published | Probed | Estimated | Measured,
    Field(discriminator="kind"),
]
PAYLOAD: TypeAdapter[Payload] = TypeAdapter(Payload)


class JobEvent(_Payload):
    """A payload with its place in the job's history."""

    number: int
    """From 1, without gaps."""
    time: datetime
    payload: Payload
