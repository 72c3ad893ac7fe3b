"""A job on two devices (two processes over gloo) learns what it learns on one, and survives the loss of one of them."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file
from trainer_process import Caller, TrainerProcess, rows, until

from graftwork.v1 import trainer_pb2 as pb
from tests.processes import running

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

Make = Callable[..., TrainerProcess]


def losses(caller: Caller, adapter: str, dataset: str) -> list[float]:
    """Runs a job and returns all its losses, steps and evaluations, in order."""
    job = caller.create(dataset, adapter=adapter, epochs=2)
    found = []
    for event in caller.watch(job.name):
        kind = event.WhichOneof("event")
        if kind in ("step_done", "evaluated"):
            found.append(getattr(event, kind).loss)
    assert caller.get(job.name).state == pb.JOB_STATE_SUCCEEDED
    return found


def weights(trainer: TrainerProcess, adapter: str, folder: Path) -> dict[str, object]:
    fetched = trainer.store.versions.fetch(trainer.store.resolve("acme", adapter), folder)
    return load_file(fetched / "adapter_model.safetensors")


def replica_of(worker: psutil.Process) -> psutil.Process | None:
    return next(iter(running("trainer_service.engine.replica", worker)), None)


def test_two_devices_learn_what_one_does_and_one_may_die(own_trainer: Make, tmp_path: Path) -> None:
    # Small passes, so that every rank has several, and they differ from one device's.
    small = {"GRAFT_TRAINER_MICRO_BATCH_TOKENS": "100"}
    alone = own_trainer(**small)
    acme = alone.tenant("acme")
    expected = losses(acme, "counter", acme.upload(rows()).name)
    one = weights(alone, "counter", tmp_path / "one")
    alone.end()

    pair = own_trainer(GRAFT_TRAINER_DEVICES="2", GRAFT_TRAINER_THREADS="2", **small)
    acme = pair.tenant("acme")
    dataset = acme.upload(rows()).name
    assert losses(acme, "counter", dataset) == pytest.approx(expected, rel=1e-4)
    two = weights(pair, "counter", tmp_path / "two")
    assert two.keys() == one.keys()
    for name, tensor in two.items():
        assert tensor == pytest.approx(one[name], rel=1e-2, abs=1e-4), name

    job = acme.create(dataset, adapter="shot", epochs=2)
    lost = until("the replica runs", lambda: replica_of(pair.worker()))
    lost.send_signal(signal.SIGKILL)
    events = list(acme.watch(job.name))
    assert any("the process of one device ended" in event.state_changed.message for event in events)
    done = acme.get(job.name)
    assert (done.state, done.attempt) == (pb.JOB_STATE_SUCCEEDED, 2)
    assert pair.store.resolve("acme", "shot").version == pair.store.resolve("acme", "counter").version
