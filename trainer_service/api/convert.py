"""Protobuf to the core's types and back; nothing else knows both."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.names import AdapterName, DatasetName, JobName
from graftwork.v1 import common_pb2, trainer_pb2
from trainer_service.core import events
from trainer_service.core.errors import InvalidRequest
from trainer_service.core.jobs import Job
from trainer_service.core.recipe import Recipe, RecipeRequest
from trainer_service.core.states import FailureReason, JobState
from trainer_service.core.uploads import DatasetFormat

_FORMATS: dict[common_pb2.DatasetFormat, DatasetFormat] = {
    common_pb2.DATASET_FORMAT_JSONL: "jsonl",
    common_pb2.DATASET_FORMAT_PARQUET: "parquet",
}
_LEVELS = {
    events.NoticeLevel.INFO: trainer_pb2.Notice.LEVEL_INFO,
    events.NoticeLevel.WARNING: trainer_pb2.Notice.LEVEL_WARNING,
}


def dataset_format(number: common_pb2.DatasetFormat) -> DatasetFormat:
    """Raises InvalidRequest for an unset or unknown format."""
    if number not in _FORMATS:
        raise InvalidRequest("header.format is not set; use DATASET_FORMAT_JSONL or DATASET_FORMAT_PARQUET")
    return _FORMATS[number]


def recipe_request(recipe: trainer_pb2.Recipe) -> RecipeRequest:
    """What was set, and None for what was not."""
    given: dict[str, Any] = {field.name: value for field, value in recipe.ListFields()}
    given["target_modules"] = tuple(recipe.target_modules)
    return RecipeRequest(**given)


def recipe(resolved: Recipe) -> trainer_pb2.Recipe:
    """Every field set, except max_steps when nothing caps the epochs."""
    return trainer_pb2.Recipe(**resolved.model_dump(exclude={"optimizer"}, exclude_none=True))


def job(found: Job) -> trainer_pb2.Job:
    """Of a job's snapshot."""
    return trainer_pb2.Job(
        name=str(JobName(found.tenant, found.id)),
        dataset=str(DatasetName(found.tenant, found.dataset)),
        adapter=str(AdapterName(found.tenant, found.adapter)),
        alias=found.alias,
        recipe=recipe(found.recipe),
        state=_state(found.state),
        failure_reason=_reason(found.failure_reason),
        message=found.message,
        version=found.version,
        create_time=_time(found.created_at),
        start_time=_time(found.started_at),
        end_time=_time(found.ended_at),
        attempt=found.attempt,
        last_event=found.last_event,
        base_eval_loss=found.base_eval_loss,
        eval_loss=found.eval_loss,
        step=found.step,
        total_steps=found.total_steps,
    )


def job_event(event: events.JobEvent) -> trainer_pb2.JobEvent:
    """Of a numbered event."""
    converted = trainer_pb2.JobEvent(number=event.number, time=_time(event.time))
    payload = event.payload
    if isinstance(payload, events.StateChanged):
        converted.state_changed.state = _state(payload.state)
        converted.state_changed.failure_reason = _reason(payload.failure_reason)
        converted.state_changed.message = payload.message
        converted.state_changed.attempt = payload.attempt
    elif isinstance(payload, events.StepDone):
        converted.step_done.CopyFrom(trainer_pb2.StepDone(**payload.model_dump(exclude={"kind"})))
    elif isinstance(payload, events.Evaluated):
        converted.evaluated.CopyFrom(trainer_pb2.Evaluated(**payload.model_dump(exclude={"kind"})))
    elif isinstance(payload, events.Notice):
        converted.notice.CopyFrom(trainer_pb2.Notice(level=_LEVELS[payload.level], message=payload.message))
    else:
        converted.published.CopyFrom(trainer_pb2.Published(**payload.model_dump(exclude={"kind"})))
    return converted


def _state(state: JobState) -> trainer_pb2.JobState:
    number: trainer_pb2.JobState = getattr(trainer_pb2, f"JOB_STATE_{state}")
    return number


def _reason(reason: FailureReason | None) -> trainer_pb2.FailureReason:
    number: trainer_pb2.FailureReason = getattr(trainer_pb2, f"FAILURE_REASON_{reason or 'UNSPECIFIED'}")
    return number


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    converted = Timestamp()
    converted.FromDatetime(moment)
    return converted
