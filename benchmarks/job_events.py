"""What a training step's event costs: through the database alone, and as a job reports them.

Each step event is committed durably before anybody sees it. `commit_us` is one event in a transaction of its own,
`batched_us` an event in a transaction with others that were waiting (as when a fast job outruns the disk),
`watched_us` reading one back. `bytes` is what an event takes in the database's file. On SQLite, and on PostgreSQL
where it is installed.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.report import Spread, parser, show, write
from tests.contract.postgres import Postgres, programs
from trainer_service.core.database import Database, open_database
from trainer_service.core.events import StepDone
from trainer_service.core.job_record import Job, NewJob
from trainer_service.core.jobs import Jobs
from trainer_service.core.queue import FairQueue
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve

BATCH = 50
EVENTS = 1000


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=5, help="of each measurement (default 5)")
    asked = options.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder:
        file = Path(folder) / "jobs.sqlite3"
        database = open_database(f"sqlite:///{file}")
        figures["sqlite"] = measure(database, asked.runs, lambda: _size(file))
        database.close()
    with postgres() as url:
        if url is not None:
            database = open_database(url)
            figures["postgresql"] = measure(database, asked.runs, lambda: _relation_size(database))
            database.close()
    columns = ("database", "commit, us", "batched, us", "watched, us", "bytes")
    rows = [[name, *(str(row[key]) for key in row)] for name, row in figures.items()]
    show("One step event (median, least and most of the runs)", columns, rows)
    write(asked.json, figures)


def measure(database: Database, runs: int, size: Callable[[], int]) -> dict[str, Any]:
    jobs = Jobs(database)
    recipe = resolve(RecipeRequest(), rows=100, fleet=Fleet())[0]
    jobs.create(NewJob("acme", "ds", "tickets", "prod", recipe, 100, False, "", "r"))
    job = FairQueue(jobs).claim()
    assert job is not None
    batches, before = itertools.count(1), size()
    alone, batched, read = [], [], []
    for _ in range(runs):
        alone.append(_timed(lambda: _record(jobs, job, batches, 1)))
        batched.append(_timed(lambda: _record(jobs, job, batches, BATCH)))
        read.append(_timed(lambda: jobs.events(job, 0, EVENTS)))
    written = 2 * runs * EVENTS
    return {
        "commit_us": Spread.of(alone),
        "batched_us": Spread.of(batched),
        "watched_us": Spread.of(read),
        "bytes": (size() - before) / written,
    }


def _timed(call: Callable[[], object]) -> float:
    """Microseconds an event."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) / EVENTS * 1e6


def _record(jobs: Jobs, job: Job, batches: Iterator[int], at_once: int) -> None:
    step = StepDone(
        step=123_456,
        total_steps=187_500,
        loss=1.2345678,
        learning_rate=1.2345e-4,
        gradient_norm=0.87654,
        tokens_per_second=12_345.6,
        epoch=1.9753,
        device_memory_bytes=17 << 30,
    )
    for _ in range(EVENTS // at_once):
        jobs.record(job.id, job.attempt, [step] * at_once, next(batches))


def _size(file: Path) -> int:
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*") if not part.name.endswith("-shm"))


def _relation_size(database: Database) -> int:
    with database.begin() as session:
        return int(session.execute(text("SELECT pg_total_relation_size('events')")).scalar_one())


@contextmanager
def postgres() -> Iterator[str | None]:
    """A server with its usual durability, or None where none is installed."""
    bin_dir = programs()
    if bin_dir is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pg") as home:
        server = Postgres(Path(home), bin_dir, durable=True)
        server.start()
        try:
            yield server.database()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
