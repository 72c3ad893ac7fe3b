"""What the trainer offers, free of any transport: plan, create, look, watch, cancel, resume.

Owns admission: the data set exists, the recipe was admitted (`planning`), the notices are written. Does not own who may call
(`api`) nor how data sets come in (`uploads`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from adapter_store import AdapterStore
from adapter_store.base import BaseInfo
from adapter_store.errors import StoreError, StoreUnavailable
from adapter_store.manifest import VersionManifest
from trainer_service.core.data_holds import DataHolds
from trainer_service.core.errors import InvalidRequest
from trainer_service.core.events import JobEvent
from trainer_service.core.inspection import Figures
from trainer_service.core.job_log import read_log
from trainer_service.core.job_record import Job, NewJob
from trainer_service.core.jobs import Jobs
from trainer_service.core.merging import MergePart, Merger
from trainer_service.core.planning import Plan, Planner
from trainer_service.core.recipe import Fleet, RecipeRequest
from trainer_service.core.states import RESUMABLE
from trainer_service.core.supervisor import Supervisor
from trainer_service.core.tenant_limits import TenantLimits
from trainer_service.core.uploads import Uploads
from trainer_service.core.watch import Watchers

DEFAULT_ALIAS = "prod"
MAX_IDEMPOTENCY_KEY = 128
MAX_PRIORITY = 100
"""Either way of 0."""

log = structlog.get_logger(__name__)


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
    priority: int = 0


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
        holds: DataHolds,
        supervisor: Supervisor,
        watchers: Watchers,
        limits: TenantLimits,
        merger: Merger,
        base: BaseInfo,
        planner: Planner,
        uploads: Uploads,
        jobs_dir: Path,
    ) -> None:
        """Takes its parts built; see `__main__`. Data sets come in through `uploads`, which callers use directly."""
        self._store, self._jobs, self._supervisor, self._watchers = store, jobs, supervisor, watchers
        self._limits, self._merger, self._base, self._holds = limits, merger, base, holds
        self._planner, self.uploads = planner, uploads
        self._jobs_dir = jobs_dir

    @property
    def fleet(self) -> Fleet:
        """What recipes have to fit."""
        return self._planner.fleet

    def max_length(self, asked: int) -> int:
        """Returns the tokens that rows are cut to where a caller asks for `asked`; 0: the recipe's default."""
        longest = self.fleet.longest
        if not 0 <= asked <= longest:
            raise InvalidRequest(f"max_length = {asked} is impossible; allowed: 8..{longest} (the backbone's)")
        return asked or min(512, longest)

    async def plan(self, request: RecipeRequest, *, rows: int, figures: Figures | None = None) -> Plan:
        """Explains, lints and estimates a recipe for a data set of which only figures are known.

        Raises:
            InvalidRecipe: a value that cannot work.
        """
        return await asyncio.to_thread(self._planner.plan, request, rows=rows, figures=figures)

    async def plan_stored(self, request: RecipeRequest, tenant: str, dataset: str) -> Plan:
        """Explains, lints and estimates a recipe for a stored data set, whose rows are tokenized for it.

        Raises:
            NotFound: the tenant has no such data set.
            InvalidRecipe: a value that cannot work.
        """
        manifest = await asyncio.to_thread(self._store.datasets.get, tenant, dataset)
        plan = await asyncio.to_thread(self._planner.plan, request, rows=manifest.rows, data=manifest.findings)
        figures = await self.uploads.figures(tenant, dataset, max_length=plan.recipe.max_length)
        return await asyncio.to_thread(
            self._planner.plan, request, rows=manifest.rows, figures=figures, data=manifest.findings
        )

    async def create_job(self, request: JobRequest) -> Job:
        """Admits a job; the same idempotency key and request answer the same job.

        Raises:
            InvalidRecipe: the recipe cannot work.
            DoesNotFit: the device is too small for it.
            NotFound: the tenant has no such data set.
            IdempotencyConflict: the key was used for something else.
            QueueFull: the tenant has too many jobs waiting.
        """
        if abs(request.priority) > MAX_PRIORITY:
            raise InvalidRequest(f"priority {request.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}")
        if len(request.idempotency_key) > MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(f"idempotency_key is longer than {MAX_IDEMPOTENCY_KEY} characters")
        dataset = await asyncio.to_thread(self._store.datasets.get, request.tenant, request.dataset)
        plan = await asyncio.to_thread(self._planner.admit, request.recipe, dataset)
        new = NewJob(
            tenant=request.tenant,
            dataset=dataset.id,
            adapter=request.adapter,
            alias=request.alias or DEFAULT_ALIAS,
            recipe=plan.recipe,
            rows=dataset.rows,
            publish_anyway=request.publish_anyway,
            idempotency_key=request.idempotency_key,
            request=repr(request),
            priority=request.priority,
        )
        room = await asyncio.to_thread(self._limits.queued, request.tenant)
        job, _ = await asyncio.to_thread(self._jobs.create, new, plan.notices(), max_queued=room)
        await self._hold(job)
        self._supervisor.wake()
        return job

    async def _hold(self, job: Job) -> None:
        """Keeps the job's data set. The job is admitted: where the store is away just now, the next round holds it."""
        try:
            await asyncio.to_thread(self._holds.settle, job.tenant, job.id)
        except StoreError as error:
            log.warning("data_set_not_held", job=job.id, cause=str(error))

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

    async def job_log(self, tenant: str, job: str, last_bytes: int) -> AsyncIterator[bytes]:
        """Yields what the job's own process printed; see `job_log.read_log`."""
        found = await self.get_job(tenant, job)
        async for piece in read_log(self._jobs_dir, found.id, last_bytes):
            yield piece

    async def cancel_job(self, tenant: str, job: str) -> Job:
        """Cancels; see `Supervisor.cancel`."""
        return await self._supervisor.cancel(tenant, job)

    async def resume_job(self, tenant: str, job: str) -> Job:
        """Queues a job that failed or was cancelled; see `Jobs.resume`. Raises NotFound when its data set has been removed."""
        found = await self.get_job(tenant, job)
        if found.state in RESUMABLE:
            with suppress(StoreUnavailable):  # the job then waits for the store by itself
                await asyncio.to_thread(self._store.datasets.read, tenant, found.dataset)
        room = await asyncio.to_thread(self._limits.queued, tenant)
        resumed = await asyncio.to_thread(self._jobs.resume, tenant, job, max_queued=room)
        await self._hold(resumed)
        self._supervisor.wake()
        return resumed

    def merge(self, version: VersionManifest, *, evaluate: bool) -> AsyncGenerator[MergePart, None]:
        """Merges a version into the backbone and yields the result; see `Merger.merge`."""
        return self._merger.merge(version, evaluate=evaluate)

    async def info(self) -> Info:
        """Returns what runs and on which base."""
        running, queued = await asyncio.to_thread(self._jobs.counts)
        return Info(self._base, running, queued)
