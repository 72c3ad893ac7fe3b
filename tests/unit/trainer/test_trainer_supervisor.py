"""A job whose end cannot be written down is not forgotten."""

from types import SimpleNamespace
from typing import Any

from sqlalchemy.exc import OperationalError

from trainer_service.core.states import JobState
from trainer_service.core.supervisor import Policy, Supervisor
from trainer_service.core.worker_messages import Finished


async def test_a_full_disk_delays_a_jobs_end_and_does_not_lose_it() -> None:
    moves: list[JobState] = []

    def move(job: str, state: JobState, **_: Any) -> SimpleNamespace:
        moves.append(state)
        if len(moves) < 3:
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        return SimpleNamespace(state=state)

    job: Any = SimpleNamespace(id="j", tenant="t", state=JobState.PUBLISHING)
    jobs: Any = SimpleNamespace(get=lambda *_: job, move=move)
    factory: Any = SimpleNamespace(clean=lambda _: None)
    supervisor = Supervisor(jobs, Any, factory, Policy(backoff_seconds=0.01))  # type: ignore[arg-type]
    await supervisor._conclude(job, Finished(state=JobState.SUCCEEDED))
    assert moves == [JobState.SUCCEEDED] * 3
