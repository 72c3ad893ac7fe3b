"""TrainerService over gRPC: who may call, names in, the core, names out. Errors are the interceptor's."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

import graftwork
from adapter_store.api.convert import dataset as stored_dataset
from adapter_store.names import DatasetName, JobName, TenantName, parse_id, parse_parent
from graftwork.rpc.auth import current_principal
from graftwork.v1 import common_pb2, trainer_pb2, trainer_pb2_grpc
from trainer_service.api import convert
from trainer_service.core.errors import InvalidRequest
from trainer_service.core.trainer import JobRequest, Trainer

if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """The trainer's calls."""

    def __init__(self, trainer: Trainer) -> None:
        """Serves `trainer`."""
        self._trainer = trainer

    async def UploadDataset(
        self, request_iterator: AsyncIterator[trainer_pb2.UploadDatasetRequest], context: "Context"
    ) -> common_pb2.Dataset:
        """Header first, then chunks."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest("the first message of an upload must be its header")
        manifest = await self._trainer.upload(
            _chunks(request_iterator),
            tenant=_own_tenant(first.header.parent),
            display_name=first.header.display_name,
            file_format=convert.dataset_format(first.header.format),
        )
        return stored_dataset(manifest)

    async def CreateJob(self, request: trainer_pb2.CreateJobRequest, context: "Context") -> trainer_pb2.Job:
        """Admits a job."""
        tenant = _own_tenant(request.parent)
        dataset = DatasetName.parse(request.dataset)
        current_principal().require_tenant(dataset.tenant)
        if dataset.tenant != tenant:
            raise InvalidRequest(f"{request.dataset} is not a data set of {request.parent}")
        job = await self._trainer.create_job(
            JobRequest(
                tenant=tenant,
                dataset=dataset.dataset,
                adapter=parse_id("adapter", request.adapter_id),
                alias=parse_id("alias", request.alias) if request.alias else "",
                recipe=convert.recipe_request(request.recipe),
                idempotency_key=request.idempotency_key,
                publish_anyway=request.publish_anyway,
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
            current_principal().require_operator()
        else:
            current_principal().require_tenant(tenant)
        jobs, token = await self._trainer.list_jobs(tenant, request.page_size, request.page_token)
        return trainer_pb2.ListJobsResponse(jobs=map(convert.job, jobs), next_page_token=token)

    async def CancelJob(self, request: trainer_pb2.CancelJobRequest, context: "Context") -> trainer_pb2.Job:
        """Of one name; again is no error."""
        name = _own_job(request.name)
        return convert.job(await self._trainer.cancel_job(name.tenant, name.job))

    async def WatchJob(
        self, request: trainer_pb2.WatchJobRequest, context: "Context"
    ) -> AsyncIterator[trainer_pb2.JobEvent]:
        """Streams until the job's last event."""
        name = _own_job(request.name)
        async for event in self._trainer.watch_job(name.tenant, name.job, request.after):
            yield convert.job_event(event)

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


def _own_job(text: str) -> JobName:
    name = JobName.parse(text)
    current_principal().require_tenant(name.tenant)
    return name


async def _chunks(messages: AsyncIterator[trainer_pb2.UploadDatasetRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidRequest("an upload has one header, first; only chunks may follow")
        yield message.chunk
