"""What the trainer's calls leave in the audit log. Owns one teller for each call that says more than its request's name."""

from typing import Any

from adapter_store.api.audit_trail import Done, Look, Teller, Told
from adapter_store.api.callers import visible
from adapter_store.names import JobName
from graftwork.v1 import trainer_pb2
from trainer_service.core.jobs import Jobs


def trainer_tellers() -> dict[str, Teller]:
    """Returns the tellers by method."""
    return {"UploadDataset": _uploaded, "CreateJob": _created, "CancelJob": _moved, "ResumeJob": _moved}


def trainer_looks(jobs: Jobs) -> dict[str, Look]:
    """Returns what is looked at before a call, by method."""

    def state(request: Any) -> str:
        name = visible(JobName.parse(request.name))  # another tenant's is not even looked at
        return jobs.get(name.tenant, name.job).state.value.lower()

    return {"CancelJob": state, "ResumeJob": state}


def _uploaded(call: Done) -> Told:
    found = f"{call.answer.rows} rows, {call.answer.size_bytes} bytes, sha256 {call.answer.sha256}"
    return Told(call.answer.name, [("data set", "", found)])


def _created(call: Done) -> Told:
    changes = [
        ("state", "", _state(call.answer)),
        ("data set", "", call.request.dataset),
        ("adapter", "", call.request.adapter_id),
    ]
    changes += [("alias", "", call.request.alias)] if call.request.alias else []
    changes += [("publish anyway", "", "yes")] if call.request.publish_anyway else []
    return Told(call.answer.name, changes)


def _moved(call: Done) -> Told:
    return Told(call.answer.name, [("state", call.before, _state(call.answer))])


def _state(job: Any) -> str:
    return str(trainer_pb2.JobState.Name(job.state)).removeprefix("JOB_STATE_").lower()
