"""Every kind of event has its message on the wire, in the journal and in the worker's messages."""

from typing import get_args

from graftwork.v1 import trainer_pb2
from trainer_service.api import convert
from trainer_service.core import events, journal, worker_messages

KINDS = set(get_args(get_args(events.Payload)[0]))


def test_every_event_can_be_sent_to_a_watcher() -> None:
    assert set(convert._EVENTS) == KINDS
    fields = {field.name for field in trainer_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert {kind.model_fields["kind"].default for kind in KINDS} == fields


def test_whatever_a_worker_says_can_be_recorded() -> None:
    said = set(get_args(journal.Said))
    assert said == KINDS - {events.StateChanged}, "a change of state is the supervisor's"
    assert said <= set(get_args(get_args(worker_messages.Message)[0]))
