"""A database of an older version is brought to the newest one with everything that is in it."""

from sqlalchemy import create_engine, make_url, text

from tests.contract.jobs_database import RECIPE
from trainer_service.core.database import migrate, open_database
from trainer_service.core.jobs import Jobs
from trainer_service.core.lease import Lease
from trainer_service.core.queue import FairQueue
from trainer_service.core.schema import Base
from trainer_service.core.states import JobState

OLD_JOB = text(
    "INSERT INTO jobs (id, tenant, dataset, adapter, alias, recipe, rows, publish_anyway, request_digest, state, message, "
    "version, created_at, attempt, failures, served, last_event, base_eval_loss, eval_loss, step, total_steps) VALUES "
    "(:id, :tenant, 'ds', 'tickets', 'prod', :recipe, 100, :no, 'digest', :state, '', '', '2026-01-02 03:04:05', 1, 0, "
    ":served, 2, 1.5, 0.5, 7, 18)"
)
OLD_EVENT = text(
    "INSERT INTO events (job_seq, number, at, payload) VALUES (:seq, :number, '2026-01-02 03:04:06', :payload)"
)


def test_jobs_of_the_first_schema_go_on_under_the_newest(url: str) -> None:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed)
    migrate(engine, "0001")
    states = {"a": JobState.SUCCEEDED, "b": JobState.RUNNING, "c": JobState.PUBLISHING, "d": JobState.QUEUED}
    with engine.begin() as connection:
        for at, (name, state) in enumerate(states.items(), 1):
            values = {"id": name, "tenant": name, "state": state, "served": at, "recipe": RECIPE.model_dump_json()}
            connection.execute(OLD_JOB, values | {"no": False})
            for number, payload in enumerate(
                (
                    '{"kind": "state_changed", "state": "QUEUED", "failure_reason": null, "message": "", "attempt": 0}',
                    '{"kind": "step_done", "step": 7, "total_steps": 18, "loss": 1.0, "learning_rate": 0.1, '
                    '"gradient_norm": 1.0, "tokens_per_second": 9.0, "epoch": 0.4}',
                ),
                1,
            ):
                connection.execute(OLD_EVENT, {"seq": at, "number": number, "payload": payload})
    engine.dispose()

    database = open_database(url)
    jobs = Jobs(database)
    done = jobs.get("a", "a")
    assert (done.state, done.step, done.base_eval_loss, done.priority, done.recipe) == (
        JobState.SUCCEEDED,
        7,
        1.5,
        0,
        RECIPE,
    )
    assert done.evaluated_step == 7, "an evaluation that was reported is not reported again"
    assert [event.payload.kind for event in jobs.events(done, 0, 10)] == ["state_changed", "step_done"]
    assert jobs.get("c", "c").may_have_published
    assert not jobs.get("b", "b").may_have_published
    lease = Lease(jobs, "me", 30)
    recovered = lease.take_over() if database.shared else lease.recover_own()
    assert {job.id for job in recovered} == {"b", "c"}
    claimed = [job.id for _ in range(4) if (job := FairQueue(jobs, "me").claim()) is not None]
    assert claimed == ["b", "c", "d"]
    with database.begin() as session:
        # What the migrations made is what the code's tables say.
        for table in Base.metadata.tables.values():
            session.execute(table.select())
        assert session.execute(text("SELECT turn FROM queue")).scalar_one() == 4 + 3
    database.close()
