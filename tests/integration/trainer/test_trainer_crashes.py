"""Whatever is killed, the job goes on, ends with the same adapter, and its events have no gap."""

import io
import signal
from collections.abc import Callable
from datetime import timedelta

import grpc
import psutil
import pytest
from trainer_process import Caller, TrainerProcess, rows, until

from adapter_store.backends.open import open_backend
from adapter_store.care.collect import collect
from adapter_store.care.report import Lines
from graftwork.v1 import trainer_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

Make = Callable[..., TrainerProcess]
LONG = {"epochs": 16}
"""Enough epochs for a signal to arrive in the middle."""


def step_reached(events: list, step: int) -> bool:
    return any(event.step_done.step >= step for event in events)


def watch_to_step(caller: Caller, job: str, step: int) -> list:
    """Follows the job until a step was done, and leaves it running."""
    seen = []
    stream = caller.watch(job)
    for event in stream:
        seen.append(event)
        if event.step_done.step >= step:
            stream.cancel()
            return seen
    pytest.fail(f"the job ended before step {step}: {seen[-1]}")


def states(events: list) -> list[str]:
    changes = [event.state_changed.state for event in events if event.WhichOneof("event") == "state_changed"]
    return [pb.JobState.Name(state).removeprefix("JOB_STATE_") for state in changes]


def assert_gapless(events: list) -> None:
    assert [event.number for event in events] == list(range(1, len(events) + 1))


def test_killed_and_hung_workers_leave_the_same_adapter(own_trainer: Make) -> None:
    trainer = own_trainer(GRAFT_TRAINER_HEARTBEAT_SECONDS="0.2", GRAFT_TRAINER_HEARTBEAT_TIMEOUT="15")
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows()).name
    straight = acme.create(dataset, adapter="straight", **LONG)
    assert states(list(acme.watch(straight.name)))[-1] == "SUCCEEDED"

    killed = acme.create(dataset, adapter="killed", **LONG)
    watch_to_step(acme, killed.name, 12)
    trainer.worker().send_signal(signal.SIGKILL)
    events = list(acme.watch(killed.name))
    assert_gapless(events)
    assert "QUEUED" in states(events)[1:]
    done = acme.get(killed.name)
    assert (done.state, done.attempt) == (pb.JOB_STATE_SUCCEEDED, 2)
    expected = trainer.store.resolve("acme", "straight")
    assert trainer.store.resolve("acme", "killed").version == expected.version

    hung = acme.create(dataset, adapter="hung", **LONG)
    watch_to_step(acme, hung.name, 12)
    trainer.worker().send_signal(signal.SIGSTOP)
    events = list(acme.watch(hung.name))
    assert any("no sign of life" in event.state_changed.message for event in events)
    assert acme.get(hung.name).attempt == 2
    assert trainer.store.resolve("acme", "hung").version == expected.version


def test_a_killed_service_goes_on_after_its_restart(own_trainer: Make) -> None:
    trainer = own_trainer()
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows()).name
    job = acme.create(dataset, **LONG)
    waiting = acme.create(dataset, adapter="waiting", max_steps=1)
    before = watch_to_step(acme, job.name, 12)
    worker = trainer.worker()
    trainer.end(signal.SIGKILL)
    until(
        "the worker dies with its service", lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    )
    assert trainer.store.aliases.list("acme", "counter") == ()
    trainer.start()
    events = before + list(acme.watch(job.name, after=before[-1].number))
    assert_gapless(events)
    assert states(events)[-1] == "SUCCEEDED"
    assert acme.get(job.name).attempt == 2
    resumed = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
    assert resumed.count(1) == 1, "the job began anew instead of going on from its checkpoint"
    list(acme.watch(waiting.name))
    assert acme.get(waiting.name).end_time.seconds > 0


def test_garbage_collection_leaves_alone_what_jobs_need(own_trainer: Make) -> None:
    """Deleted, its grace time over: a running and a waiting job still need it, also behind a crash that lost a hold."""
    trainer = own_trainer()
    store, acme = trainer.store, trainer.tenant("acme")
    store.datasets._deletions._grace = -timedelta(days=1)
    dataset = acme.upload(rows()).name
    running = acme.create(dataset, **LONG)
    waiting = acme.create(dataset, adapter="waiting", max_steps=1)
    names = [job.name.rsplit("/", 1)[-1] for job in (running, waiting)]
    assert [record.job for record in store.holds.held("acme")] == sorted(names)
    store.datasets.delete("acme", dataset.rsplit("/", 1)[-1], by="tests", reason="because")

    def collected() -> tuple[list[str], list[str]]:
        done = collect(open_backend(trainer.url), Lines(io.StringIO()))
        return list(done.removed.amounts), list(done.kept.amounts)

    assert collected() == ([], ["a running job needs it"])
    trainer.end(signal.SIGKILL)
    store.holds.release("acme", names[1], by="tests")
    trainer.start()
    until("it holds again", lambda: len(list(store.holds.held("acme"))) == 2)
    acme.cancel(running.name)
    assert list(acme.watch(waiting.name))[-1].state_changed.state == pb.JOB_STATE_SUCCEEDED
    trainer.end()
    trainer.start()
    until("both let go", lambda: not list(store.holds.held("acme")))
    assert collected()[0] == ["data sets"]
    with pytest.raises(grpc.RpcError) as caught:
        acme.resume(running.name)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "data set" in str(caught.value.details())


def test_a_stopped_service_queues_its_job_and_tells_its_watchers(own_trainer: Make) -> None:
    trainer = own_trainer()
    acme = trainer.tenant("acme")
    job = acme.create(acme.upload(rows()).name, **LONG)
    before = watch_to_step(acme, job.name, 7)
    stream = acme.watch(job.name, after=before[-1].number)
    next(stream)
    worker = trainer.worker()
    trainer.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert trainer.end() == 0
    assert not worker.is_running()
    trainer.start()
    events = list(acme.watch(job.name))
    assert_gapless(events)
    assert any(event.state_changed.message == "the service was stopped" for event in events)
    assert states(events)[-1] == "SUCCEEDED"


def test_a_worker_that_always_dies_fails_its_job_after_three_attempts(own_trainer: Make) -> None:
    trainer = own_trainer()
    acme = trainer.tenant("acme")
    job = acme.create(acme.upload(rows()).name, **LONG)
    for attempt in (1, 2, 3):
        until(f"attempt {attempt}", lambda n=attempt: acme.get(job.name).attempt == n)  # type: ignore[misc]
        worker = trainer.worker()
        worker.send_signal(signal.SIGABRT)
        until("it is gone", lambda w=worker: not w.is_running() or w.status() == psutil.STATUS_ZOMBIE)  # type: ignore[misc]
    last = list(acme.watch(job.name))[-1].state_changed
    assert (last.state, last.failure_reason) == (pb.JOB_STATE_FAILED, pb.FAILURE_REASON_SYSTEM_ERROR)
    assert "signal 6" in last.message


def test_a_running_and_a_waiting_job_are_cancelled(own_trainer: Make) -> None:
    trainer = own_trainer()
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows()).name
    running = acme.create(dataset, **LONG)
    waiting = acme.create(dataset, **LONG)
    watch_to_step(acme, running.name, 3)
    worker = trainer.worker()
    assert acme.cancel(waiting.name).state == pb.JOB_STATE_CANCELLED
    assert acme.cancel(running.name).state in (pb.JOB_STATE_CANCELLING, pb.JOB_STATE_CANCELLED)
    events = list(acme.watch(running.name))
    assert states(events)[-2:] == ["CANCELLING", "CANCELLED"]
    assert not worker.is_running()
    assert acme.cancel(running.name).state == pb.JOB_STATE_CANCELLED
    assert trainer.store.aliases.list("acme", "counter") == ()
    assert trainer.store.versions.list("acme", "counter").items == []


def test_a_second_service_on_the_same_state_is_refused(own_trainer: Make) -> None:
    trainer = own_trainer()
    second = TrainerProcess(trainer.home, trainer.home)
    with pytest.raises(AssertionError, match="another process works on"):
        second.start()
