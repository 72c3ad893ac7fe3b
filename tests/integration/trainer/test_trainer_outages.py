"""The store away, memory too small, a job that goes on after its end: no attempt is wasted, and the adapter is the
same.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from minio import Minio
from test_trainer_crashes import LONG, assert_gapless, states, watch_to_step
from trainer_process import TrainerProcess, rows, until

from adapter_store import open_store
from graftwork.v1 import trainer_pb2 as pb
from tests.contract.cuttable_proxy import CuttableProxy
from tests.contract.rgw import Rgw
from trainer_service.core.kernel_oom import kernel_oom_kills

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
Make = Callable[..., TrainerProcess]


@pytest.fixture
def cuttable(rgw: Rgw, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CuttableProxy, str]]:
    """A bucket behind a connection that can be cut, and the store's URL through it."""
    client = Minio(
        rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False, region="us-east-1"
    )
    client.make_bucket("outage")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    with CuttableProxy(rgw.endpoint) as proxy:
        yield proxy, f"s3://outage/graft?endpoint={proxy.endpoint}&region=us-east-1"


@pytest.mark.s3
def test_a_store_that_is_cut_off_makes_a_job_wait_and_costs_no_attempt(
    own_trainer: Make, cuttable: tuple[CuttableProxy, str]
) -> None:
    proxy, url = cuttable
    trainer = own_trainer(GRAFT_STORE_URL=url, GRAFT_TRAINER_STORE_PATIENCE_SECONDS="1")
    trainer.store = open_store(url)
    acme, operator = trainer.tenant("acme"), trainer.operator()
    dataset = acme.upload(rows()).name
    calm = acme.create(dataset, adapter="calm", **LONG)
    assert states(list(acme.watch(calm.name)))[-1] == "SUCCEEDED"
    job = acme.create(dataset, adapter="cut", **LONG)
    watch_to_step(operator, job.name, 12)
    proxy.cut()  # the training needs no store; publishing does

    def waits() -> bool:
        found = operator.get(job.name)
        return found.state == pb.JOB_STATE_QUEUED and "goes on by itself" in found.message

    until("the job has given way", waits, seconds=120)
    until("it tries again", lambda: operator.get(job.name).attempt >= 3, seconds=120)
    proxy.mend()
    events = list(operator.watch(job.name))
    assert_gapless(events)
    assert states(events)[-1] == "SUCCEEDED"
    steps = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
    assert steps == list(range(1, 81))
    assert trainer.store.resolve("acme", "cut").version == trainer.store.resolve("acme", "calm").version


def test_a_job_that_was_cancelled_or_failed_goes_on_where_it_was(own_trainer: Make) -> None:
    trainer = own_trainer(GRAFT_TRAINER_MAX_ATTEMPTS="1")
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows()).name
    calm = acme.create(dataset, adapter="calm", **LONG)
    assert states(list(acme.watch(calm.name)))[-1] == "SUCCEEDED"
    job = acme.create(dataset, adapter="resumed", **LONG)
    watch_to_step(acme, job.name, 12)
    acme.cancel(job.name)
    before = list(acme.watch(job.name))
    assert states(before)[-1] == "CANCELLED"
    resumed = acme.resume(job.name)
    assert resumed.state == pb.JOB_STATE_QUEUED
    assert resumed.checkpoint_step >= 10
    assert acme.resume(job.name).name == job.name, "again is no error"
    watch_to_step(acme, job.name, resumed.step + 12)
    trainer.worker().send_signal(signal.SIGABRT)
    failed = list(acme.watch(job.name))[-1].state_changed
    assert (failed.state, failed.failure_reason) == (pb.JOB_STATE_FAILED, pb.FAILURE_REASON_SYSTEM_ERROR)
    acme.resume(job.name)
    events = list(acme.watch(job.name))
    assert_gapless(events)
    assert states(events)[-1] == "SUCCEEDED"
    steps = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
    assert steps == list(range(1, 81))
    assert any("goes on from step" in event.notice.message for event in events)
    assert trainer.store.resolve("acme", "resumed").version == trainer.store.resolve("acme", "calm").version
    with pytest.raises(Exception, match="nothing left to do"):
        acme.resume(job.name)
    log = trainer.operator().call("ReadJobLog", pb.ReadJobLogRequest(name=job.name))
    assert (
        b"".join(part.chunk for part in log)
        == (trainer.state / "jobs" / job.name.split("/")[-1] / "worker.log").read_bytes()
    )


def test_a_cancelled_worker_ends_within_a_step(own_trainer: Make) -> None:
    trainer = own_trainer()
    acme = trainer.tenant("acme")
    job = acme.create(acme.upload(rows()).name, epochs=1000)
    watch_to_step(acme, job.name, 12)
    asked = acme.cancel(job.name)
    events = list(acme.watch(job.name))
    assert states(events)[-1] == "CANCELLED"
    said_after = [event for event in events[asked.last_event :] if event.WhichOneof("event") == "step_done"]
    # What was on its way in the pipe is still written; nothing is computed any more.
    assert len(said_after) <= 3


@pytest.fixture
def no_memory() -> Iterator[Path]:
    """A control group in which nothing more can be allocated."""
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "")
    group = Path("/sys/fs/cgroup/memory") / own.rpartition(":")[2].lstrip("/") / f"graft-oom-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(1 << 20))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error.strerror}")
    if kernel_oom_kills() is None:
        pytest.skip("this kernel does not count its out-of-memory kills")
    yield group
    until("the group is empty", lambda: not (group / "cgroup.procs").read_text().strip())
    group.rmdir()


def test_a_victim_of_the_kernels_oom_killer_is_tried_once_with_smaller_passes(
    own_trainer: Make, no_memory: Path
) -> None:
    trainer = own_trainer(GRAFT_TRAINER_MICRO_BATCH_TOKENS="8192")
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows()).name
    job = acme.create(dataset, **LONG)
    for attempt in (1, 2):
        until(f"attempt {attempt}", lambda n=attempt: acme.get(job.name).attempt == n)  # type: ignore[misc]
        worker = trainer.worker()  # still importing its libraries, which takes memory
        (no_memory / "cgroup.procs").write_text(str(worker.pid))
        until("it is a victim", lambda w=worker: not w.is_running() or w.status() == psutil.STATUS_ZOMBIE)  # type: ignore[misc]
    events = list(acme.watch(job.name))
    messages = [event.state_changed.message for event in events if event.WhichOneof("event") == "state_changed"]
    assert any("out-of-memory killer" in text and "2048 tokens a pass instead of 8192" in text for text in messages)
    done = acme.get(job.name)
    assert (done.state, done.failure_reason, done.attempt) == (
        pb.JOB_STATE_FAILED,
        pb.FAILURE_REASON_OUT_OF_MEMORY,
        2,
    )
