"""`client.jobs` of the asynchronous client, and the job that its calls return."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, fields

from graftwork.client.errors import RemoteDeadline, RemoteUnavailable
from graftwork.sdk import jobs as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.calls import Call
from graftwork.sdk.datasets import Dataset
from graftwork.sdk.estimates import JobEstimate, estimate_job
from graftwork.sdk.explanations import RecipeExplanation, explain_recipe
from graftwork.sdk.job_events import JobEvent, read_event
from graftwork.sdk.job_states import JobState
from graftwork.sdk.jobs import JobNotSucceeded, JobRecord, TrainerInfo
from graftwork.sdk.names import Scope
from graftwork.sdk.recipe import Recipe
from graftwork.sdk.validation import DatasetFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncJob(JobRecord):
    """See `Job`; `watch` is iterated over with `async for`."""

    _jobs: "AsyncJobs" = field(repr=False, compare=False)

    async def refresh(self) -> "AsyncJob":
        """See `Job.refresh`."""
        return await self._jobs.get(self.name)

    def watch(self, *, after: int = 0, timeout: float | None = None) -> AsyncGenerator[JobEvent]:
        """See `Job.watch`."""
        return self._jobs.watch(self.name, after=after, timeout=timeout)

    async def wait(self, *, timeout: float | None = None) -> "AsyncJob":
        """See `Job.wait`."""
        async for _ in self._jobs.watch(self.name, after=self.last_event, timeout=timeout):
            pass
        return await self.refresh()

    async def result(self, *, timeout: float | None = None) -> "AsyncJob":
        """See `Job.result`."""
        done = await self.wait(timeout=timeout)
        if done.state is not JobState.SUCCEEDED:
            raise JobNotSucceeded(done)
        return done

    def log(self, *, last_bytes: int = 0) -> AsyncGenerator[bytes]:
        """See `Job.log`."""
        return self._jobs.log(self.name, last_bytes=last_bytes)

    async def cancel(self) -> "AsyncJob":
        """See `Job.cancel`."""
        return await self._jobs.cancel(self.name)

    async def resume(self) -> "AsyncJob":
        """See `Job.resume`."""
        return await self._jobs.resume(self.name)


class AsyncJobs:
    """See `Jobs`."""

    def __init__(self, wire: AsyncWire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    async def create(
        self,
        dataset: Dataset | str,
        adapter: str,
        *,
        recipe: Recipe | None = None,
        alias: str = "prod",
        publish_anyway: bool = False,
        priority: int = 0,
        idempotency_key: str = "",
    ) -> AsyncJob:
        """See `Jobs.create`."""
        return await self._call(
            calls.create_job(
                self._scope.parent,
                self._name(dataset),
                adapter,
                recipe or Recipe(),
                alias=alias,
                publish_anyway=publish_anyway,
                priority=priority,
                idempotency_key=idempotency_key,
            )
        )

    async def explain_recipe(self, rows: int, *, recipe: Recipe | None = None) -> RecipeExplanation:
        """See `Jobs.explain_recipe`."""
        parent = self._scope.parent if self._scope.tenant else ""
        return await self._wire.call(explain_recipe(parent, recipe or Recipe(), rows))

    async def estimate(self, dataset: Dataset | DatasetFigures | str, *, recipe: Recipe | None = None) -> JobEstimate:
        """See `Jobs.estimate`."""
        data = dataset if isinstance(dataset, DatasetFigures) else self._name(dataset)
        return await self._wire.call(estimate_job(self._scope.parent, data, recipe or Recipe()))

    async def get(self, job: str) -> AsyncJob:
        """See `Jobs.get`."""
        return await self._call(calls.get_job(self._scope.job(job)))

    async def list(self) -> AsyncIterator[AsyncJob]:
        """See `Jobs.list`."""
        parent = self._scope.parent if self._scope.tenant else "tenants/-"
        async for record in self._wire.list(calls.list_jobs(parent)):
            yield self._bound(record)

    async def watch(self, job: str, *, after: int = 0, timeout: float | None = None) -> AsyncGenerator[JobEvent]:
        """See `Jobs.watch`."""
        name = self._scope.job(job)
        ends = time.monotonic() + timeout if timeout is not None else None
        lost = None
        while True:
            left = None if ends is None else max(0.001, ends - time.monotonic())
            try:
                async with aclosing(self._wire.stream(calls.watch_job(name, after, left))) as messages:
                    async for message in messages:
                        event = read_event(message)
                        after, lost = event.number, None
                        yield event
                return
            except RemoteDeadline:
                raise calls.timed_out(name, timeout or 0) from None
            except RemoteUnavailable:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > calls.WATCH_PATIENCE_S:
                    raise
                await asyncio.sleep(calls.WATCH_PAUSE_S)

    async def log(self, job: str, *, last_bytes: int = 0) -> AsyncGenerator[bytes]:
        """See `Jobs.log`."""
        async with aclosing(self._wire.stream(calls.read_job_log(self._scope.job(job), last_bytes))) as messages:
            async for message in messages:
                yield message.chunk

    async def info(self) -> TrainerInfo:
        """See `Jobs.info`."""
        return await self._wire.call(calls.get_trainer_info())

    async def cancel(self, job: str) -> AsyncJob:
        """See `Jobs.cancel`."""
        return await self._call(calls.cancel_job(self._scope.job(job)))

    async def resume(self, job: str) -> AsyncJob:
        """See `Jobs.resume`."""
        return await self._call(calls.resume_job(self._scope.job(job)))

    def _name(self, dataset: Dataset | str) -> str:
        return dataset.name if isinstance(dataset, Dataset) else self._scope.dataset(dataset)

    async def _call(self, call: Call[JobRecord]) -> AsyncJob:
        return self._bound(await self._wire.call(call))

    def _bound(self, record: JobRecord) -> AsyncJob:
        return AsyncJob(**{item.name: getattr(record, item.name) for item in fields(JobRecord)}, _jobs=self)
