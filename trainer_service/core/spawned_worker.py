"""A worker as a process of its own.

Owns the process, its pipes and the job's folder on the disk. The events pipe is separate from stdout, so that a library's
print cannot break a message; stdout and stderr go to the job's log. The worker's stdin is both the way to answer it
and the sign that this process lives.
"""

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from trainer_service.core.jobs import Job
from trainer_service.core.worker_messages import GO_PUBLISH, MESSAGE, Message, WorkerSpec

ENGINE = "trainer_service.engine.worker"
MAX_LINE = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a service is told; see WorkerSpec for the fields."""

    state_dir: Path
    backbone: Path
    store_url: str
    device: Literal["cpu", "cuda"]
    threads: int
    micro_batch_tokens: int
    checkpoint_seconds: float
    heartbeat_seconds: float


class SpawnedWorker:
    """One process; see `worker.Worker`."""

    def __init__(self, process: asyncio.subprocess.Process, events: asyncio.StreamReader, pipe: asyncio.BaseTransport):
        """Takes over the process and the read end of its events pipe."""
        self._process, self._events, self._pipe = process, events, pipe

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def receive(self) -> Message | None:
        """Returns the next message, or None at the end of the pipe."""
        line = await self._events.readline()
        # A line without its end is what a killed process was writing: the message was never sent.
        return MESSAGE.validate_json(line) if line.endswith(b"\n") else None

    async def allow_publish(self) -> None:
        """Sends GO_PUBLISH; a process that is gone shows at the next receive."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{GO_PUBLISH}\n".encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            log.info("worker_gone_before_publish", pid=self.pid)

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> int:
        """Waits for the end and closes the pipes."""
        status = await self._process.wait()
        self._pipe.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status


class Spawner:
    """Starts `python -m trainer_service.engine.worker` for a job."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Keeps jobs' folders under `{state_dir}/jobs`."""
        self._settings = settings

    def _work_dir(self, job: Job) -> Path:
        return self._settings.state_dir / "jobs" / job.id

    async def start(self, job: Job) -> SpawnedWorker:
        """Writes the spec and starts the process."""
        work_dir = self._work_dir(job)
        work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec = work_dir / "spec.json"
        _write_private(spec, self._spec(job, work_dir).model_dump_json())
        read_end, write_end = os.pipe()
        try:
            with (work_dir / "worker.log").open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", ENGINE, str(spec), str(write_end)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(write_end,),
                    env=_environment(self._settings.threads),
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            # Kept open here, the pipe would never end when the worker dies.
            os.close(write_end)
        events = asyncio.StreamReader(limit=MAX_LINE)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(events), os.fdopen(read_end, "rb", buffering=0)
        )
        log.info("worker_started", job=job.id, attempt=job.attempt, pid=process.pid)
        return SpawnedWorker(process, events, pipe)

    def clean(self, job: Job) -> None:
        """Drops checkpoints, rows and the spec; the log stays."""
        work_dir = self._work_dir(job)
        for folder in ("checkpoints", "adapter"):
            shutil.rmtree(work_dir / folder, ignore_errors=True)
        for file in ("dataset", "dataset.partial", "spec.json", "lock"):
            (work_dir / file).unlink(missing_ok=True)

    def _spec(self, job: Job, work_dir: Path) -> WorkerSpec:
        settings = self._settings
        return WorkerSpec(
            job=job.id,
            tenant=job.tenant,
            adapter=job.adapter,
            alias=job.alias,
            dataset=job.dataset,
            recipe=job.recipe,
            publish_anyway=job.publish_anyway,
            attempt=job.attempt,
            backbone=settings.backbone,
            store_url=settings.store_url,
            work_dir=work_dir,
            device=settings.device,
            threads=settings.threads,
            micro_batch_tokens=settings.micro_batch_tokens,
            checkpoint_seconds=settings.checkpoint_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )


def _environment(threads: int) -> dict[str, str]:
    """Returns the worker's environment: ours, and how its threads behave.

    PASSIVE: OpenMP's threads otherwise spin at the end of every parallel region. Beside a busy neighbour (the serving
    engine on the same cores) that took a training from 2,100 to 350 tokens a second on two cores.
    """
    ours = {"TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    return ours | dict(os.environ) | {"OMP_NUM_THREADS": str(threads)}


def _write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
