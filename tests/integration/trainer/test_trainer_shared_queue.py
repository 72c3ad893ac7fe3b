"""Two trainers, one PostgreSQL: jobs are shared out, the living take over from the dead, and none runs twice at once."""

import signal
from pathlib import Path

import psutil
import pytest
from test_trainer_crashes import LONG, assert_gapless, states, watch_to_step
from trainer_process import Caller, TrainerProcess, rows, until

from adapter_store import open_store
from graftwork.v1 import trainer_pb2 as pb
from tests.contract.postgres import Postgres
from tests.processes import running

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


class Pair:
    """Two services with one store, one database and one folder of jobs."""

    def __init__(self, root: Path, backbone: Path, url: str) -> None:
        shared = {
            "GRAFT_STORE_URL": f"file://{root}/store",
            "GRAFT_TRAINER_DATABASE_URL": url,
            "GRAFT_TRAINER_JOBS_DIR": str(root / "jobs"),
            "GRAFT_TRAINER_LEASE_SECONDS": "5",
        }
        self.services = [TrainerProcess(root / name, backbone, **shared) for name in ("one", "two")]
        self.store = open_store(f"file://{root}/store")
        for service in self.services:
            service.store = self.store
            service.start()
        self.store.tenants.create("acme")
        key = self.store.tenants.issue_key("acme", "test").secret
        self.callers = [Caller(service, key, "acme") for service in self.services]

    def runner_of(self, job: str) -> int:
        """Which of the two runs a job: its worker's parent."""
        for at, service in enumerate(self.services):
            if service.process is not None and running(job.rsplit("/", 1)[-1], psutil.Process(service.process.pid)):
                return at
        return -1


@pytest.fixture
def pair(tmp_path: Path, miniature: Path, postgres: Postgres):  # type: ignore[no-untyped-def]
    made = Pair(tmp_path, miniature, postgres.database())
    yield made
    for service in made.services:
        if service.process is not None and service.process.poll() is None:
            service.end(signal.SIGKILL)


def test_a_dead_and_a_frozen_service_lose_their_jobs_to_the_other(pair: Pair) -> None:
    one, two = pair.callers
    dataset = one.upload(rows()).name
    calm = one.create(dataset, adapter="calm", **LONG)
    assert states(list(two.watch(calm.name)))[-1] == "SUCCEEDED", "whoever runs it, either service tells of it"
    expected = pair.store.resolve("acme", "calm").version

    killed = one.create(dataset, adapter="killed", epochs=16)
    before = watch_to_step(one, killed.name, 12)
    victim = pair.runner_of(killed.name)
    pair.services[victim].end(signal.SIGKILL)
    survivor = pair.callers[1 - victim]
    events = before + list(survivor.watch(killed.name, after=before[-1].number))
    assert_gapless(events)
    messages = [event.state_changed.message for event in events if event.WhichOneof("event") == "state_changed"]
    assert "the service that ran it is gone" in messages
    steps = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
    assert steps == list(range(1, 81))
    assert any("goes on from step" in event.notice.message for event in events), "the folder of jobs is shared"
    assert pair.store.resolve("acme", "killed").version == expected
    pair.services[victim].start()

    frozen = survivor.create(dataset, adapter="frozen", epochs=400)
    watch_to_step(survivor, frozen.name, 12)
    at = pair.runner_of(frozen.name)
    service, other = pair.services[at], pair.callers[1 - at]
    worker = service.worker()
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    # Its lease runs out: the worker is ended by its own clock before anybody else may take the job.
    until("the worker ends itself", lambda: worker.status() == psutil.STATUS_ZOMBIE)
    assert other.get(frozen.name).attempt == 1, "nobody has taken it over yet"
    until("the other one takes it over", lambda: other.get(frozen.name).attempt == 2)
    service.process.send_signal(signal.SIGCONT)
    watch_to_step(other, frozen.name, other.get(frozen.name).step + 20)
    assert pair.runner_of(frozen.name) == 1 - at
    # Cancelled through the service that does not run it.
    pair.callers[at].cancel(frozen.name)
    events = list(other.watch(frozen.name))
    assert_gapless(events)
    assert states(events)[-2:] == ["CANCELLING", "CANCELLED"]


def test_a_database_that_restarts_costs_no_job(pair: Pair, postgres: Postgres) -> None:
    one, two = pair.callers
    dataset = one.upload(rows()).name
    jobs = [one.create(dataset, adapter=f"job-{at}", epochs=100) for at in range(2)]
    for caller, job in zip((one, two), jobs, strict=True):
        watch_to_step(caller, job.name, 12)
    assert {pair.runner_of(job.name) for job in jobs} == {0, 1}, "both run at the same time, one on each"
    postgres.stop()
    with pytest.raises(Exception, match="database does not answer"):
        one.get(jobs[0].name)
    postgres.start()
    for job in jobs:
        events = list(one.client().watch_job(job.name))
        assert_gapless(events)
        assert states(events)[-1] == "SUCCEEDED"
        steps = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
        assert steps == list(range(1, 501))
        assert one.get(job.name).state == pb.JOB_STATE_SUCCEEDED
    versions = {pair.store.resolve("acme", f"job-{at}").version for at in range(2)}
    assert len(versions) == 1
