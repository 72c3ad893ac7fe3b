"""TrainerService over gRPC: who may call, names in, the core, names out. Errors are the interceptor's."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

import graftwork
from adapter_store import AdapterStore
from adapter_store.api.adapter_calls import find_version
from adapter_store.api.callers import visible
from adapter_store.api.convert import dataset as stored_dataset
from adapter_store.names import NOBODY, DatasetName, JobName, TenantName, parse_id, parse_parent
from graftwork.rpc.auth import current_principal
from graftwork.rpc.status import FINDINGS_KEY
from graftwork.v1 import common_pb2, trainer_pb2, trainer_pb2_grpc
from trainer_service.api import convert, convert_plans
from trainer_service.core.errors import InvalidRequest, InvalidRows, NotEstimable
from trainer_service.core.trainer import JobRequest, Trainer

if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """The trainer's calls."""

    def __init__(self, trainer: Trainer, store: AdapterStore) -> None:
        """Serves `trainer`; versions are looked up in `store` as the registry does."""
        self._trainer, self._store = trainer, store

    async def UploadDataset(
        self, request_iterator: AsyncIterator[trainer_pb2.UploadDatasetRequest], context: "Context"
    ) -> common_pb2.Dataset:
        """Header first, then chunks."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest("the first message of an upload must be its header")
        try:
            manifest = await self._trainer.uploads.upload(
                _chunks(request_iterator),
                tenant=_own_tenant(first.header.parent),
                display_name=first.header.display_name,
                file_format=convert.dataset_format(first.header.format),
                sha256=first.header.sha256,
            )
        except InvalidRows as error:
            context.set_trailing_metadata(((FINDINGS_KEY, convert_plans.refusal(error)),))
            raise
        return stored_dataset(manifest)

    async def ValidateDataset(
        self, request_iterator: AsyncIterator[trainer_pb2.ValidateDatasetRequest], context: "Context"
    ) -> AsyncIterator[trainer_pb2.ValidateDatasetResponse]:
        """Of a stream of chunks, or of a stored data set."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest("the first message of a validation must be its header")
        header = first.header
        tenant = _own_tenant(header.parent)
        look = convert_plans.look(header, self._trainer.max_length(header.max_length))
        uploads = self._trainer.uploads
        if header.dataset:
            steps = uploads.validate_stored(*_own_dataset(header.dataset, tenant), look)
        else:
            steps = uploads.validate(_chunks(request_iterator), convert.dataset_format(header.format), look)
        async with aclosing(steps):
            async for step in steps:
                yield convert_plans.validation(step)

    async def ExplainRecipe(
        self, request: trainer_pb2.ExplainRecipeRequest, context: "Context"
    ) -> trainer_pb2.RecipeExplanation:
        """For a number of rows."""
        _own_tenant(request.parent)
        plan = await self._trainer.plan(convert.recipe_request(request.recipe), rows=request.rows)
        return convert_plans.explanation(plan, self._trainer.fleet)

    async def EstimateJob(self, request: trainer_pb2.EstimateJobRequest, context: "Context") -> trainer_pb2.JobEstimate:
        """For a stored data set, or for figures."""
        tenant = _own_tenant(request.parent)
        recipe = convert.recipe_request(request.recipe)
        match request.WhichOneof("data"):
            case "dataset":
                plan = await self._trainer.plan_stored(recipe, *_own_dataset(request.dataset, tenant))
            case "figures":
                figures = convert_plans.given_figures(request.figures)
                plan = await self._trainer.plan(recipe, rows=figures.rows, figures=figures)
            case _:
                raise InvalidRequest("name a data set, or send figures from ValidateDataset")
        if plan.estimate is None:
            raise NotEstimable("the backbone's shapes are not known (packed weights), so nothing can be estimated")
        return convert_plans.job_estimate(plan, plan.estimate, self._trainer.fleet)

    async def CreateJob(self, request: trainer_pb2.CreateJobRequest, context: "Context") -> trainer_pb2.Job:
        """Admits a job."""
        tenant = _own_tenant(request.parent)
        owner, dataset = _own_dataset(request.dataset, tenant)
        job = await self._trainer.create_job(
            JobRequest(
                tenant=owner,
                dataset=dataset,
                adapter=parse_id("adapter", request.adapter_id),
                alias=parse_id("alias", request.alias) if request.alias else "",
                recipe=convert.recipe_request(request.recipe),
                idempotency_key=request.idempotency_key,
                publish_anyway=request.publish_anyway,
                priority=request.priority,
            )
        )
        return convert.job(job)

    async def GetJob(self, request: trainer_pb2.GetJobRequest, context: "Context") -> trainer_pb2.Job:
        """Of one name."""
        name = _own_job(request.name)
        return convert.job(await self._trainer.get_job(name.tenant, name.job))

    async def ListJobs(self, request: trainer_pb2.ListJobsRequest, context: "Context") -> trainer_pb2.ListJobsResponse:
        """Of a tenant, or of all for an operator."""
        tenant = parse_parent(request.parent)
        if tenant is None:
            current_principal().require_overseer()
        else:
            current_principal().require_tenant(tenant)
        jobs, token = await self._trainer.list_jobs(tenant, request.page_size, request.page_token)
        return trainer_pb2.ListJobsResponse(jobs=map(convert.job, jobs), next_page_token=token)

    async def CancelJob(self, request: trainer_pb2.CancelJobRequest, context: "Context") -> trainer_pb2.Job:
        """Of one name; again is no error."""
        name = _own_job(request.name)
        return convert.job(await self._trainer.cancel_job(name.tenant, name.job))

    async def ResumeJob(self, request: trainer_pb2.ResumeJobRequest, context: "Context") -> trainer_pb2.Job:
        """Of one name; again is no error."""
        name = _own_job(request.name)
        return convert.job(await self._trainer.resume_job(name.tenant, name.job))

    async def WatchJob(
        self, request: trainer_pb2.WatchJobRequest, context: "Context"
    ) -> AsyncIterator[trainer_pb2.JobEvent]:
        """Streams until the job's last event."""
        name = _own_job(request.name)
        async for event in self._trainer.watch_job(name.tenant, name.job, request.after):
            yield convert.job_event(event)

    async def ReadJobLog(
        self, request: trainer_pb2.ReadJobLogRequest, context: "Context"
    ) -> AsyncIterator[trainer_pb2.ReadJobLogResponse]:
        """Operators only: libraries print what they like, paths of the machine among it."""
        current_principal().require_operator()
        name = JobName.parse(request.name)
        async for piece in self._trainer.job_log(name.tenant, name.job, request.last_bytes):
            yield trainer_pb2.ReadJobLogResponse(chunk=piece)

    async def MergeVersion(
        self, request: trainer_pb2.MergeVersionRequest, context: "Context"
    ) -> AsyncIterator[trainer_pb2.MergeVersionResponse]:
        """Of a version or an alias. A cancelled call ends the merge."""
        version = await find_version(self._store, request.name)
        parts = self._trainer.merge(version, evaluate=not request.skip_evaluation)
        async with aclosing(parts):
            async for part in parts:
                yield convert.merge_part(part, version)

    async def GetTrainerInfo(
        self, request: trainer_pb2.GetTrainerInfoRequest, context: "Context"
    ) -> trainer_pb2.TrainerInfo:
        """For any caller with a key."""
        info = await self._trainer.info()
        return trainer_pb2.TrainerInfo(
            version=graftwork.__version__,
            base_model=info.base.model_id,
            base_digest=info.base.digest,
            running_jobs=info.running_jobs,
            queued_jobs=info.queued_jobs,
        )


def _own_tenant(parent: str) -> str:
    tenant = TenantName.parse(parent).tenant
    current_principal().require_tenant(tenant)
    return tenant


def _own_dataset(text: str, tenant: str) -> tuple[str, str]:
    """Returns the tenant and the id of a data set that the caller may see.

    Of another tenant's, the tenant is NOBODY, so that the data set is missed like one that does not exist.
    """
    name = visible(DatasetName.parse(text))
    if name.tenant not in (tenant, NOBODY):
        raise InvalidRequest(f"{text} is not a data set of tenants/{tenant}")
    return name.tenant, name.dataset


def _own_job(text: str) -> JobName:
    return visible(JobName.parse(text))


async def _chunks(
    messages: AsyncIterator[trainer_pb2.UploadDatasetRequest] | AsyncIterator[trainer_pb2.ValidateDatasetRequest],
) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidRequest("a stream has one header, first; only chunks may follow")
        yield message.chunk
