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
    """One optimizer step."""

    kind: Literal["step_done"] = "step_done"
    step: int
    total_steps: int
    loss: float
    """Mean over the supervised tokens of the step."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens_per_second: float
    """Real tokens; padding is not counted."""
    epoch: float


class Evaluated(_Payload):
    """The held-out loss after `step` steps."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    loss: float
    """Mean over the supervised tokens of the held-out rows."""
    is_base: bool


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


Payload = Annotated[StateChanged | StepDone | Evaluated | Notice | Published, Field(discriminator="kind")]
PAYLOAD: TypeAdapter[Payload] = TypeAdapter(Payload)


class JobEvent(_Payload):
    """A payload with its place in the job's history."""

    number: int
    """From 1, without gaps."""
    time: datetime
    payload: Payload
