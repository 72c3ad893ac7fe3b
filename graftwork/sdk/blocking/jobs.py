"""`client.jobs`, and the job that its calls return: explain, estimate, create, watch, wait for, cancel and resume."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields

from graftwork.client.errors import RemoteDeadline, RemoteUnavailable
from graftwork.sdk import jobs as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.calls import Call, Listing
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
class Job(JobRecord):
    """A job as it was when asked for, and what can be done with it; see `JobRecord` for its fields."""

    _jobs: "Jobs" = field(repr=False, compare=False)

    def refresh(self) -> "Job":
        """Returns the job as it is now."""
        return self._jobs.get(self.name)

    def watch(self, *, after: int = 0, timeout: float | None = None) -> Iterator[JobEvent]:
        """Yields the job's events; see `Jobs.watch`."""
        return self._jobs.watch(self.name, after=after, timeout=timeout)

    def wait(self, *, timeout: float | None = None) -> "Job":
        """Waits until the job has ended, well or not, and returns it; `timeout` in seconds.

        Raises:
            WaitTimedOut: it has not; the job goes on.
        """
        for _ in self._jobs.watch(self.name, after=self.last_event, timeout=timeout):
            pass
        return self.refresh()

    def result(self, *, timeout: float | None = None) -> "Job":
        """Waits for success and returns the job; `version` is what it published.

        Raises:
            JobNotSucceeded: it failed, was cancelled or gated; the message and `error.job` say why.
            WaitTimedOut: it has not ended; the job goes on.
        """
        done = self.wait(timeout=timeout)
        if done.state is not JobState.SUCCEEDED:
            raise JobNotSucceeded(done)
        return done

    def log(self, *, last_bytes: int = 0) -> Iterator[bytes]:
        """Yields what the job's own process printed; see `Jobs.log`."""
        return self._jobs.log(self.name, last_bytes=last_bytes)

    def cancel(self) -> "Job":
        """Stops the job within a step; see `Jobs.cancel`."""
        return self._jobs.cancel(self.name)

    def resume(self) -> "Job":
        """Goes on from the newest checkpoint; see `Jobs.resume`."""
        return self._jobs.resume(self.name)


class Jobs:
    """Calls about training jobs of the client's tenant; a job is named by its id or its full name."""

    def __init__(self, wire: Wire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def create(
        self,
        dataset: Dataset | str,
        adapter: str,
        *,
        recipe: Recipe | None = None,
        alias: str = "prod",
        publish_anyway: bool = False,
        priority: int = 0,
        idempotency_key: str = "",
    ) -> Job:
        """Queues a job that trains an adapter and publishes a version of it.

        Args:
            dataset: an uploaded one, or its id.
            adapter: id of the adapter, new or not.
            recipe: what to train; None: what the service chooses for the rows.
            alias: moves to the new version when it beats the base and serving answers with it as it was trained.
            publish_anyway: move the alias even if the version does not beat the base.
            priority: among the tenant's own jobs, -100 to 100; higher goes first.
            idempotency_key: the same key answers the same job; empty: one of its own, so that repeats make one job.

        Raises:
            RemoteNotFound: no such data set.
            RemoteInvalid: a recipe that cannot be trained; the message says which field.
            RemoteExhausted: as many jobs are queued as the tenant may have.
        """
        return self._call(
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

    def explain_recipe(self, rows: int, *, recipe: Recipe | None = None) -> RecipeExplanation:
        """Says how a recipe would be filled in, and what set each value; creates nothing.

        Args:
            rows: of the data set, held-out ones included.
            recipe: as for `create`.

        Raises:
            RemoteInvalid: a recipe whose values cannot be, or too few rows.
        """
        parent = self._scope.parent if self._scope.tenant else ""
        return self._wire.call(explain_recipe(parent, recipe or Recipe(), rows))

    def estimate(self, dataset: Dataset | DatasetFigures | str, *, recipe: Recipe | None = None) -> JobEstimate:
        """Says what a job would take, in time and memory; creates nothing.

        Args:
            dataset: an uploaded one, its id, or the `figures` of one that `client.datasets.validate` has looked through.
            recipe: as for `create`.

        Raises:
            RemoteNotFound: no such data set.
            RemoteInvalid: a recipe whose values cannot be.
        """
        data = dataset if isinstance(dataset, DatasetFigures) else self._name(dataset)
        return self._wire.call(estimate_job(self._scope.parent, data, recipe or Recipe()))

    def get(self, job: str) -> Job:
        """Looks a job up. Raises RemoteNotFound."""
        return self._call(calls.get_job(self._scope.job(job)))

    def list(self) -> Iterator[Job]:
        """Yields the tenant's jobs, newest first; all tenants' for an operator's client without a tenant."""
        parent = self._scope.parent if self._scope.tenant else "tenants/-"
        listing: Listing[JobRecord] = calls.list_jobs(parent)
        return map(self._bound, self._wire.list(listing))

    def watch(self, job: str, *, after: int = 0, timeout: float | None = None) -> Iterator[JobEvent]:
        """Yields a job's events, each once and in order, until its last; outlives a minute of the trainer being away.

        Args:
            job: id or name.
            after: number of the last event that the caller has; 0: from the beginning.
            timeout: seconds in all; None: as long as the job takes.

        Raises:
            RemoteNotFound: no such job.
            WaitTimedOut: it had not ended when the time was up.
            RemoteUnavailable: the trainer was away for a minute.
        """
        name = self._scope.job(job)
        ends = time.monotonic() + timeout if timeout is not None else None
        lost = None
        while True:
            left = None if ends is None else max(0.001, ends - time.monotonic())
            try:
                with closing(self._wire.stream(calls.watch_job(name, after, left))) as messages:
                    for message in messages:
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
                time.sleep(calls.WATCH_PAUSE_S)

    def log(self, job: str, *, last_bytes: int = 0) -> Iterator[bytes]:
        """Yields what a job's own process printed, in pieces; it may hold paths of the machine, so for operators only.

        Args:
            job: id or name.
            last_bytes: only the end, of so many bytes; 0: all.

        Raises:
            RemoteForbidden: a tenant's key. RemoteNotFound: no such job, or it never ran here.
        """
        with closing(self._wire.stream(calls.read_job_log(self._scope.job(job), last_bytes))) as messages:
            for message in messages:
                yield message.chunk

    def info(self) -> TrainerInfo:
        """Tells which backbone the trainer trains on, and how many jobs run and wait."""
        return self._wire.call(calls.get_trainer_info())

    def cancel(self, job: str) -> Job:
        """Stops a job within a step; one that has ended stays as it is. Raises RemoteNotFound."""
        return self._call(calls.cancel_job(self._scope.job(job)))

    def resume(self, job: str) -> Job:
        """Queues a job that failed or was cancelled; it goes on from its newest checkpoint, which is kept for 7 days.

        Raises:
            RemoteNotFound: no such job.
            RemotePrecondition: it ended well.
        """
        return self._call(calls.resume_job(self._scope.job(job)))

    def _name(self, dataset: Dataset | str) -> str:
        return dataset.name if isinstance(dataset, Dataset) else self._scope.dataset(dataset)

    def _call(self, call: Call[JobRecord]) -> Job:
        return self._bound(self._wire.call(call))

    def _bound(self, record: JobRecord) -> Job:
        return Job(**{item.name: getattr(record, item.name) for item in fields(JobRecord)}, _jobs=self)
