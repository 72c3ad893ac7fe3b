"""What the trainer's calls leave in the audit log. Owns one teller for each call that says more than its request's name."""

from datetime import UTC
from typing import Any

from adapter_store import AdapterStore
from adapter_store.api.audit_registry import appeared
from adapter_store.api.audit_trail import Done, Look, Teller, Told
from adapter_store.api.callers import visible
from adapter_store.audit import differing
from adapter_store.names import DatasetName, JobName
from graftwork.v1 import trainer_pb2
from trainer_service.core.jobs import Jobs


def trainer_tellers(store: AdapterStore) -> dict[str, Teller]:
    """Returns the tellers by method; they ask the store."""

    def uploaded(call: Done) -> Told:
        made = call.answer
        new, before = appeared(store, DatasetName.parse(made.name), made, call.began)
        found = f"{made.rows} rows, {made.size_bytes} bytes, sha256 {made.sha256}"
        return Told(made.name, [("data set", before, found)] if new else [])

    return {"UploadDataset": uploaded, "CreateJob": _created, "CancelJob": _moved, "ResumeJob": _moved}


def trainer_looks(jobs: Jobs) -> dict[str, Look]:
    """Returns what is looked at before a call, by method."""

    def state(request: Any) -> str:
        name = visible(JobName.parse(request.name))  # another tenant's is not even looked at
        return jobs.get(name.tenant, name.job).state.value.lower()

    return {"CancelJob": state, "ResumeJob": state}


def _created(call: Done) -> Told:
    if call.answer.create_time.ToDatetime(UTC) < call.began:  # its idempotency key was used before
        return Told(call.answer.name)
    changes = [
        ("state", "", _state(call.answer)),
        ("data set", "", call.request.dataset),
        ("adapter", "", call.request.adapter_id),
    ]
    changes += [("alias", "", call.request.alias)] if call.request.alias else []
    changes += [("publish anyway", "", "yes")] if call.request.publish_anyway else []
    return Told(call.answer.name, changes)


def _moved(call: Done) -> Told:
    return Told(call.answer.name, differing({"state": call.before or ""}, {"state": _state(call.answer)}))


def _state(job: Any) -> str:
    return str(trainer_pb2.JobState.Name(job.state)).removeprefix("JOB_STATE_").lower()
