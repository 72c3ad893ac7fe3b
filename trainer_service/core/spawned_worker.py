"""A worker as a process of its own.

Owns what it is told and the job's folder on the disk. The worker's stdin is both the way to answer it and the sign
that this process lives. Does not own the process itself (`child`).
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from trainer_service.core.child import Child, start_child, write_private
from trainer_service.core.job_record import Job
from trainer_service.core.recipe import Fleet
from trainer_service.core.worker_messages import GO_PUBLISH, LEASE, MESSAGE, SETTLED, Message, ProbeSpec, WorkerSpec

ENGINE = "trainer_service.engine.worker"
SPEC = "spec.json"
LOG = "worker.log"
"""Names in a job's folder."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a service is told; see WorkerSpec for the fields."""

    jobs_dir: Path
    """Every job has a folder of its own in it."""
    backbone: Path
    store_url: str
    device: Literal["cpu", "cuda"]
    threads: int
    devices: int
    micro_batch_tokens: int
    checkpoint_seconds: float
    heartbeat_seconds: float
    fleet: Fleet
    calibrations: Path
    store_patience_seconds: float
    probe: ProbeSpec | None
    signing_key_file: Path | None = None
    audit_folder: Path | None = None


class SpawnedWorker:
    """One process; see `worker.Worker`."""

    def __init__(self, child: Child) -> None:
        """Takes over the process."""
        self._child = child
        self.terminate, self.kill, self.wait = child.terminate, child.kill, child.wait

    async def receive(self) -> Sequence[Message]:
        """Returns the messages that are there, or none at the end of the pipe."""
        return [MESSAGE.validate_json(line) for line in await self._child.lines()]

    async def allow_publish(self) -> None:
        """Sends GO_PUBLISH."""
        await self._child.tell(GO_PUBLISH)

    async def tell_settled(self, number: int) -> None:
        """Sends SETTLED."""
        await self._child.tell(f"{SETTLED} {number}")

    async def extend_lease(self, until: float) -> None:
        """Sends LEASE."""
        await self._child.tell(f"{LEASE} {until!r}")


class Spawner:
    """Starts `python -m trainer_service.engine.worker` for a job."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def work_dir(self, job: str) -> Path:
        """Returns a job's folder."""
        return self._settings.jobs_dir / job

    async def start(self, job: Job, lease_until: float) -> SpawnedWorker:
        """Writes the spec and starts the process."""
        work_dir = self.work_dir(job.id)
        work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec = work_dir / SPEC
        write_private(spec, self._spec(job, work_dir, lease_until).model_dump_json())
        child = await start_child(ENGINE, spec, work_dir / LOG, threads=self._settings.threads)
        log.info("worker_started", job=job.id, attempt=job.attempt, pid=child.pid)
        return SpawnedWorker(child)

    def clean(self, job: str) -> None:
        """Drops checkpoints, rows and the spec; the log stays."""
        work_dir = self.work_dir(job)
        for folder in ("checkpoints", "adapter", "encoded"):
            shutil.rmtree(work_dir / folder, ignore_errors=True)
        for file in ("dataset", "dataset.partial", "lock", SPEC):  # the spec last: it says that there is something left
            (work_dir / file).unlink(missing_ok=True)

    def leftovers(self) -> Sequence[str]:
        """Returns the jobs that have more than a log here."""
        return [spec.parent.name for spec in self._settings.jobs_dir.glob(f"*/{SPEC}")]

    def _spec(self, job: Job, work_dir: Path, lease_until: float) -> WorkerSpec:
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
            devices=settings.devices,
            micro_batch_tokens=job.micro_batch_tokens or settings.micro_batch_tokens,
            checkpoint_seconds=settings.checkpoint_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            signing_key_file=settings.signing_key_file,
            audit_folder=settings.audit_folder,
            fleet=settings.fleet,
            calibrations=settings.calibrations,
            lease_until=lease_until if math.isfinite(lease_until) else None,
            store_patience_seconds=settings.store_patience_seconds,
            probe=settings.probe,
        )
