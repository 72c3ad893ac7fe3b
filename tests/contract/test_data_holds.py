"""What jobs hold in the store, on both databases: whatever died in between, holds follow the jobs' states."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import StoreError, StoreUnavailable
from adapter_store.holds import Holds
from adapter_store.manifest import HoldRecord
from tests.contract.jobs_database import new
from trainer_service.core.data_holds import DataHolds
from trainer_service.core.jobs import Jobs
from trainer_service.core.states import JobState


class Away(Holds):
    """A store that is away for some jobs, and in which somebody acts right before a release is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(FilesystemBackend(folder))
        self.away: set[str] = set()
        self.before_release: Callable[[], object] = lambda: None

    def hold(self, tenant: str, job: str, datasets: object, *, by: str) -> HoldRecord:
        if job in self.away:
            raise StoreUnavailable("away")
        return super().hold(tenant, job, datasets, by=by)  # type: ignore[arg-type]

    def release(self, tenant: str, job: str, *, by: str) -> HoldRecord | None:
        self.before_release()
        return super().release(tenant, job, by=by)


@pytest.fixture
def holds(tmp_path: Path) -> Away:
    return Away(tmp_path / "store")


def held(holds: Holds) -> dict[str, tuple[str, ...]]:
    return {record.job: record.datasets for record in holds.held("acme")}


def test_a_job_holds_from_its_admission_to_its_end(jobs: Jobs, holds: Away) -> None:
    keeper = DataHolds(holds, jobs, "tests")
    job, _ = jobs.create(new())
    keeper.settle("acme", job.id)
    assert held(holds) == {job.id: ("ds-1",)}
    jobs.move(job.id, JobState.CANCELLED)
    keeper.round()
    assert held(holds) == {}


def test_a_round_makes_up_for_what_a_dead_service_did_not_do(jobs: Jobs, holds: Away) -> None:
    waiting, _ = jobs.create(new())
    ended, _ = jobs.create(new())
    holds.hold("acme", ended.id, ["ds-1"], by="tests")
    jobs.move(ended.id, JobState.CANCELLED)
    holds.hold("acme", "of-another-database", ["ds-1"], by="tests")
    DataHolds(holds, jobs, "tests").round()
    assert held(holds) == {waiting.id: ("ds-1",), "of-another-database": ("ds-1",)}


def test_a_store_that_is_away_for_one_job_keeps_nobody_else_from_holding(jobs: Jobs, holds: Away) -> None:
    keeper = DataHolds(holds, jobs, "tests")
    first, second = (jobs.create(new())[0] for _ in range(2))
    holds.away.add(first.id)
    with pytest.raises(StoreError):
        keeper.round()
    assert held(holds) == {second.id: ("ds-1",)}
    holds.away.clear()
    keeper.round()
    assert held(holds).keys() == {first.id, second.id}


def test_a_job_that_is_resumed_while_its_hold_is_released_holds(jobs: Jobs, holds: Away) -> None:
    keeper = DataHolds(holds, jobs, "tests")
    job, _ = jobs.create(new())
    keeper.settle("acme", job.id)
    jobs.move(job.id, JobState.CANCELLED)

    def resume() -> None:
        holds.before_release = lambda: None
        jobs.resume("acme", job.id)
        DataHolds(holds, jobs, "another trainer").settle("acme", job.id)  # finds it still held

    holds.before_release = resume
    keeper.round()
    assert held(holds) == {job.id: ("ds-1",)}
    jobs.move(job.id, JobState.CANCELLED)
    keeper.round()
    assert held(holds) == {}
