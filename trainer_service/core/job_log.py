"""What a job's own process printed, from the machine that ran it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from trainer_service.core.errors import JobNotFound
from trainer_service.core.spawned_worker import LOG

_PIECE = 1 << 16


async def read_log(jobs_dir: Path, job: str, last_bytes: int) -> AsyncIterator[bytes]:
    """Yields the log's bytes as of now.

    Args:
        jobs_dir: of all jobs' folders.
        job: the id of a job that exists.
        last_bytes: how much of its end; 0: all.

    Raises:
        JobNotFound: no worker of it ran here.
    """
    path = jobs_dir / job / LOG
    if not await asyncio.to_thread(path.is_file):
        raise JobNotFound(f"job {job} has no log on this machine: it has not started, or ran on another one")
    with await asyncio.to_thread(path.open, "rb") as file:
        end = await asyncio.to_thread(file.seek, 0, 2)
        file.seek(max(0, end - last_bytes) if last_bytes > 0 else 0)
        # To the end as it was: a worker that prints faster than a client reads would never let go of this call.
        while (at := file.tell()) < end and (piece := await asyncio.to_thread(file.read, min(_PIECE, end - at))):
            yield piece
