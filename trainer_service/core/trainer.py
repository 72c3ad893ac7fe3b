"""What the trainer offers, free of any transport: upload, create, look, watch, cancel.

Owns admission: the data set exists, the recipe is possible, the notices are written. Does not own who may call (`api`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_store import AdapterStore
from adapter_store.base import BaseInfo
from adapter_store.manifest import DatasetManifest
from trainer_service.core import uploads
from trainer_service.core.errors import InvalidRequest
from trainer_service.core.events import JobEvent
from trainer_service.core.jobs import Job, Jobs, NewJob
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.core.recipe_lint import lint
from trainer_service.core.supervisor import Supervisor
from trainer_service.core.watch import Watchers

DEFAULT_ALIAS = "prod"
MAX_IDEMPOTENCY_KEY = 128


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a caller wants trained; ids are parsed already."""

    tenant: str
    dataset: str
    adapter: str
    alias: str
    """Empty: DEFAULT_ALIAS."""
    recipe: RecipeRequest
    idempotency_key: str
    publish_anyway: bool


@dataclass(frozen=True, slots=True)
class Info:
    """The service in short."""

    base: BaseInfo
    running_jobs: int
    queued_jobs: int


class Trainer:
    """The service's core."""

    def __init__(
        self,
        *,
        store: AdapterStore,
        jobs: Jobs,
        supervisor: Supervisor,
        watchers: Watchers,
        base: BaseInfo,
        fleet: Fleet,
        uploads_dir: Path,
        max_dataset_bytes: int,
    ) -> None:
        """Takes its parts built; see `__main__`."""
        self._store, self._jobs, self._supervisor, self._watchers = store, jobs, supervisor, watchers
        self._base, self._fleet = base, fleet
        self._uploads_dir, self._max_dataset_bytes = uploads_dir, max_dataset_bytes
        uploads_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in uploads_dir.iterdir():  # of a service that was killed while it received
            left.unlink()

    async def upload(
        self, chunks: AsyncIterator[bytes], *, tenant: str, display_name: str, file_format: uploads.DatasetFormat
    ) -> DatasetManifest:
        """Checks and keeps a data set; see `uploads.receive`."""
        return await uploads.receive(
            self._store,
            chunks,
            tenant=tenant,
            display_name=display_name,
            file_format=file_format,
            folder=self._uploads_dir,
            max_bytes=self._max_dataset_bytes,
        )

    async def create_job(self, request: JobRequest) -> Job:
        """Admits a job; the same idempotency key and request answer the same job.

        Raises:
            InvalidRecipe: the recipe cannot work.
            NotFound: the tenant has no such data set.
            IdempotencyConflict: the key was used for something else.
        """
        if len(request.idempotency_key) > MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(f"idempotency_key is longer than {MAX_IDEMPOTENCY_KEY} characters")
        dataset = await asyncio.to_thread(self._store.datasets.get, request.tenant, request.dataset)
        recipe, notices = resolve(request.recipe, rows=dataset.rows, fleet=self._fleet)
        new = NewJob(
            tenant=request.tenant,
            dataset=dataset.id,
            adapter=request.adapter,
            alias=request.alias or DEFAULT_ALIAS,
            recipe=recipe,
            rows=dataset.rows,
            publish_anyway=request.publish_anyway,
            idempotency_key=request.idempotency_key,
            request=repr(request),
        )
        job, _ = await asyncio.to_thread(self._jobs.create, new, [*notices, *lint(recipe, rows=dataset.rows)])
        self._supervisor.wake()
        return job

    async def get_job(self, tenant: str, job: str) -> Job:
        """Raises JobNotFound."""
        return await asyncio.to_thread(self._jobs.get, tenant, job)

    async def list_jobs(self, tenant: str | None, page_size: int, page_token: str) -> tuple[Sequence[Job], str]:
        """Returns a page of jobs, newest first, and the next page's token; None: of all tenants."""
        return await asyncio.to_thread(self._jobs.list, tenant, page_size, page_token)

    async def watch_job(self, tenant: str, job: str, after: int) -> AsyncIterator[JobEvent]:
        """Yields events from `after` on; see `Watchers.follow`."""
        found = await self.get_job(tenant, job)
        async for event in self._watchers.follow(self._jobs, found, after):
            yield event

    async def cancel_job(self, tenant: str, job: str) -> Job:
        """Cancels; see `Supervisor.cancel`."""
        return await self._supervisor.cancel(tenant, job)

    async def info(self) -> Info:
        """Returns what runs and on which base."""
        running, queued = await asyncio.to_thread(self._jobs.counts)
        return Info(self._base, running, queued)
