"""Whose jobs are whose: a restart takes up its own, and with a shared database the living take over from the dead."""

from pathlib import Path

import pytest
from sqlalchemy import select

from tests.contract.jobs_database import new, numbers
from trainer_service.core.database import open_database
from trainer_service.core.errors import DatabaseUnavailable
from trainer_service.core.jobs import Jobs
from trainer_service.core.lease import Lease, service_id
from trainer_service.core.queue import FairQueue
from trainer_service.core.schema import JobRow, QueueRow, ServiceRow
from trainer_service.core.states import JobState


def expire(jobs: Jobs, owner: str) -> None:
    """Lets a lease run out without waiting for it."""
    with jobs.begin() as session:
        row = session.get(ServiceRow, owner)
        assert row is not None
        row.lease_until = jobs.database.now(session)


def test_a_restart_queues_what_was_running_and_numbers_go_on(url: str) -> None:
    database = open_database(url)
    before = Jobs(database)
    running, _ = before.create(new())
    cancelling, _ = before.create(new(tenant="other"))
    waiting, _ = before.create(new(tenant="third"))
    for job in (running, cancelling):
        claimed = FairQueue(before, "me").claim()
        assert claimed is not None
        assert claimed.id == job.id
    before.move(cancelling.id, JobState.CANCELLING)
    database.close()

    database = open_database(url)  # the migrations run again, and find nothing to do
    told: list[str] = []
    after = Jobs(database, told.append)
    lease = Lease(after, "me", 30)
    assert {job.id for job in lease.recover_own()} == {running.id, cancelling.id} == set(told)
    assert lease.recover_own() == []
    assert after.get("acme", running.id).state is JobState.QUEUED
    assert after.get("other", cancelling.id).state is JobState.CANCELLED
    assert after.get("third", waiting.id) == waiting
    assert numbers(after, running) == [1, 2, 3]
    assert FairQueue(after).claim() is not None
    database.close()


def test_a_lease_is_held_from_its_renewal_on(jobs: Jobs) -> None:
    lease = Lease(jobs, "me", 30)
    assert lease.is_held == (not jobs.database.shared)
    lease.renew()
    assert lease.is_held
    lease.until = 0.0
    assert not lease.is_held
    lease.renew()
    assert lease.is_held == jobs.database.shared, "with SQLite nothing is ever renewed, as nobody else could take a job"


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_only_the_dead_lose_their_jobs(jobs: Jobs) -> None:
    here, there = Lease(jobs, "here", 30), Lease(jobs, "there", 30)
    here.renew()
    there.renew()
    job, _ = jobs.create(new())
    cancelled, _ = jobs.create(new(tenant="other"))
    queue = FairQueue(jobs, "there")
    assert {job.id for job in (queue.claim(), queue.claim()) if job} == {job.id, cancelled.id}
    assert here.take_over() == []
    assert here.recover_own() == []
    jobs.move(cancelled.id, JobState.CANCELLING)  # through a call to `here`
    assert jobs.cancelling("there") == [cancelled.id]
    assert jobs.cancelling("here") == []
    expire(jobs, "there")
    assert {item.id: item.state for item in here.take_over()} == {
        job.id: JobState.QUEUED,
        cancelled.id: JobState.CANCELLED,
    }
    taken = FairQueue(jobs, "here").claim()
    assert taken is not None
    assert (taken.owner, taken.attempt) == ("here", 2)
    there.renew()
    assert there.recover_own() == there.take_over() == []
    here.give_up()
    assert [item.id for item in there.take_over()] == [job.id]


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_service_that_freezes_in_a_transaction_holds_nobody_up(jobs: Jobs, url: str) -> None:
    """Its locks are taken from it: on the job, which others would pass over, and on the queue, which they would wait for."""
    there = open_database(url)
    frozen, other = Lease(Jobs(there), "frozen", 30), Lease(jobs, "other", 30)
    frozen.renew()
    other.renew()
    job, _ = jobs.create(new())
    assert FairQueue(Jobs(there), "frozen").claim() is not None
    expire(jobs, "frozen")

    def freeze() -> None:
        with there.begin() as session:
            session.scalars(select(JobRow).with_for_update()).one()
            session.scalars(select(QueueRow).with_for_update()).one()
            assert other.take_over() == [], "the job is locked"
            assert FairQueue(jobs, "other").claim() is None, "it waited for the queue, in which nothing is yet"
            assert [item.id for item in other.take_over()] == [job.id]
            taken = FairQueue(jobs, "other").claim()
            assert taken is not None
            assert (taken.id, taken.owner, taken.attempt) == (job.id, "other", 2)
            session.scalars(select(JobRow)).one()  # thawed: it learns that its transaction is over

    with pytest.raises(DatabaseUnavailable, match="idle-in-transaction"):  # not: a lock that was waited for in vain
        freeze()
    there.close()


def test_a_services_id_survives_its_restarts(tmp_path: Path) -> None:
    one = service_id(tmp_path)
    assert one
    assert service_id(tmp_path) == one
    (tmp_path / "other").mkdir()
    assert service_id(tmp_path / "other") != one
