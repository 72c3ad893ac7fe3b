"""A job's history, one class a kind of event."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from graftwork.sdk.job_states import FailureReason, JobState, ProbeOutcome, read_reason, read_state
from graftwork.sdk.reading import read_enum, read_time
from graftwork.v1 import trainer_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """What all events have; also the class of a kind that this SDK does not know yet.

    Attributes:
        number: from 1, without gaps; `watch(after=number)` goes on behind it.
        time: UTC.
    """

    number: int
    time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(JobEvent):
    """The job's state. `failure_reason` is None unless it failed; `attempt` of the worker process, from 1."""

    state: JobState
    failure_reason: FailureReason | None
    message: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone(JobEvent):
    """One optimizer step; of a job with more than 5,000 steps the means of several, up to and with `step`.

    Attributes:
        step, total_steps: from 1.
        loss: mean over the supervised tokens, nats a token.
        learning_rate: of this step. gradient_norm: before clipping. epoch: passes so far.
        tokens_per_second: real tokens, padding not counted.
        steps: that the event stands for.
        device_memory_bytes: most held so far; on a CPU of the machine's memory.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    epoch: float
    steps: int
    device_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(JobEvent):
    """Loss on the held-out rows, nats a token. `is_base`: step 0, where the adapter changes nothing yet."""

    step: int
    loss: float
    is_base: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(JobEvent):
    """Something to know. `level`: info or warning."""

    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(JobEvent):
    """The version is in the store. `alias` is empty, and `alias_number` 0, when it moved none."""

    version: str
    alias: str
    alias_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated(JobEvent):
    """What the job is going to take, from its own rows. `measured_speed` False: `seconds` is a guess."""

    tokens: int
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    peak_bytes: int
    seconds: float
    measured_speed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(JobEvent):
    """What the attempt that ended the training took, beside what was predicted for this part of it."""

    steps: int
    seconds: float
    predicted_seconds: float
    peak_bytes: int
    predicted_peak_bytes: int
    measured_speed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(JobEvent):
    """A killed worker goes on from here."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed(JobEvent):
    """The published version as serving answers with it, beside the trainer's own model.

    Attributes:
        outcome, message: the verdict.
        rows, tokens: that were compared.
        distance: mean difference of a token's log-probability, served to trained, nats. tolerance: largest that passes.
        base_distance: the same between the two bases. effect: between served adapter and served base.
    """

    outcome: ProbeOutcome
    message: str
    rows: int
    tokens: int
    distance: float
    tolerance: float
    base_distance: float
    effect: float


_PLAIN: dict[str, type[JobEvent]] = {
    "step_done": StepDone,
    "evaluated": Evaluated,
    "published": Published,
    "estimated": Estimated,
    "measured": Measured,
    "checkpoint_saved": CheckpointSaved,
}
"""Kinds whose fields are the protocol's, by name."""


def read_event(message: pb.JobEvent) -> JobEvent:
    """Returns the event as its own class."""
    kind = message.WhichOneof("event")
    about: dict[str, Any] = {"number": message.number, "time": read_time(message, "time")}
    if kind is None:
        return JobEvent(**about)
    body = getattr(message, kind)
    fields = {field.name: getattr(body, field.name) for field in body.DESCRIPTOR.fields}
    match kind:
        case "state_changed":
            changed = {"state": read_state(body.state), "failure_reason": read_reason(body.failure_reason)}
            return StateChanged(**about, **fields | changed)
        case "notice":
            return Notice(
                **about, **fields | {"level": pb.Notice.Level.Name(body.level).removeprefix("LEVEL_").lower()}
            )
        case "probed":
            outcome = read_enum(ProbeOutcome, pb.ProbeOutcome, body.outcome, "PROBE_OUTCOME_")
            return Probed(**about, **fields | {"outcome": outcome})
    known = _PLAIN.get(kind)
    return (
        known(**about, **{name: fields[name] for name in fields if name in known.__slots__})
        if known
        else JobEvent(**about)
    )
