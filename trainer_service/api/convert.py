"""Jobs, recipes and events: protobuf to the core's types and back. Data sets and plans are `convert_plans`'."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from adapter_store.manifest import VersionManifest
from adapter_store.names import AdapterName, DatasetName, JobName, VersionName
from graftwork.v1 import common_pb2, trainer_pb2
from trainer_service.core import events
from trainer_service.core.errors import InvalidRecipe, InvalidRequest
from trainer_service.core.job_record import Job
from trainer_service.core.merge_messages import MergedFile, MergeProgress
from trainer_service.core.merging import Chunk, MergePart
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


_EVENTS: dict[type[events.Payload], Any] = {
    events.StateChanged: trainer_pb2.StateChanged,
    events.StepDone: trainer_pb2.StepDone,
    events.Evaluated: trainer_pb2.Evaluated,
    events.CheckpointSaved: trainer_pb2.CheckpointSaved,
    events.Notice: trainer_pb2.Notice,
    events.Published: trainer_pb2.Published,
    events.Probed: trainer_pb2.Probed,
    events.Estimated: trainer_pb2.Estimated,
    events.Measured: trainer_pb2.Measured,
}


def dataset_format(number: common_pb2.DatasetFormat) -> DatasetFormat:
    """Raises InvalidRequest for an unset or unknown format."""
    if number not in _FORMATS:
        raise InvalidRequest("header.format is not set; use DATASET_FORMAT_JSONL or DATASET_FORMAT_PARQUET")
    return _FORMATS[number]


def recipe_request(recipe: trainer_pb2.Recipe) -> RecipeRequest:
    """What was set, and None for what was not.

    Raises:
        InvalidRecipe: a field that this service does not know, of a newer client perhaps: it would have no effect.
    """
    if unknown := UnknownFieldSet(recipe):
        numbers = ", ".join(str(field.field_number) for field in unknown)  # type: ignore[attr-defined]  # its stub forgets __iter__
        raise InvalidRecipe(f"recipe: field number {numbers} is not known to this service; update it, or leave it out")
    given: dict[str, Any] = {field.name: value for field, value in recipe.ListFields()}
    given["target_modules"] = tuple(recipe.target_modules)
    return RecipeRequest(**given)


def recipe(resolved: Recipe) -> trainer_pb2.Recipe:
    """Every field set, except max_steps when nothing caps the epochs."""
    return trainer_pb2.Recipe(**resolved.model_dump(exclude_none=True))


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
        priority=found.priority,
        probe_outcome=_probe(found.probe_outcome),
        probe_message=found.probe_message,
        checkpoint_step=found.checkpoint_step,
    )


def job_event(event: events.JobEvent) -> trainer_pb2.JobEvent:
    """Of a numbered event."""
    converted = trainer_pb2.JobEvent(number=event.number, time=_time(event.time))
    payload = event.payload
    fields = payload.model_dump(exclude={"kind"})  # the protocol's messages have the payloads' own field names
    match payload:
        case events.StateChanged():
            fields |= {"state": _state(payload.state), "failure_reason": _reason(payload.failure_reason)}
        case events.Notice():
            fields |= {"level": _LEVELS[payload.level]}
        case events.Probed():
            fields |= {"outcome": _probe(payload.outcome)}
    getattr(converted, payload.kind).CopyFrom(_EVENTS[type(payload)](**fields))
    return converted


def merge_part(part: MergePart, version: VersionManifest) -> trainer_pb2.MergeVersionResponse:
    """Of one part of a merge's stream."""
    match part:
        case MergeProgress():
            progress = trainer_pb2.MergeProgress(stage=part.stage, done=part.done, total=part.total)
            return trainer_pb2.MergeVersionResponse(progress=progress)
        case MergedFile():
            return trainer_pb2.MergeVersionResponse(file=_merged_file(part))
        case Chunk():
            return trainer_pb2.MergeVersionResponse(chunk=part.data)
    report = trainer_pb2.MergeReport(
        version=str(VersionName(version.tenant, version.adapter, version.version)),
        files=map(_merged_file, part.files),
        **part.model_dump(exclude={"kind", "files"}),
    )
    return trainer_pb2.MergeVersionResponse(report=report)


def _merged_file(file: MergedFile) -> trainer_pb2.MergedFile:
    return trainer_pb2.MergedFile(path=file.path, sha256=file.sha256, size_bytes=file.size)


def _state(state: JobState) -> trainer_pb2.JobState:
    number: trainer_pb2.JobState = getattr(trainer_pb2, f"JOB_STATE_{state}")
    return number


def _reason(reason: FailureReason | None) -> trainer_pb2.FailureReason:
    number: trainer_pb2.FailureReason = getattr(trainer_pb2, f"FAILURE_REASON_{reason or 'UNSPECIFIED'}")
    return number


def _probe(outcome: events.ProbeOutcome | None) -> trainer_pb2.ProbeOutcome:
    number: trainer_pb2.ProbeOutcome = getattr(trainer_pb2, f"PROBE_OUTCOME_{outcome or 'UNSPECIFIED'}")
    return number


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    converted = Timestamp()
    converted.FromDatetime(moment)
    return converted
