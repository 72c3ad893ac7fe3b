"""RegistryService's calls about data sets; uploading one is the trainer's."""

from asyncio import to_thread
from typing import Any

from adapter_store.api import convert
from adapter_store.api.callers import caller, own_tenant, request_of, visible
from adapter_store.names import DatasetName
from adapter_store.store import AdapterStore
from graftwork.v1 import common_pb2
from graftwork.v1 import registry_pb2 as pb


class DatasetCalls:
    """Mixed into `RegistryServicer`, which sets `_store`."""

    _store: AdapterStore

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> common_pb2.Dataset:
        name = visible(DatasetName.parse(request.name))
        return convert.dataset(await to_thread(self._store.datasets.get, name.tenant, name.dataset))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        tenant = own_tenant(request.parent)
        page = await to_thread(self._store.datasets.list, tenant, request.page_size, request.page_token)
        return pb.ListDatasetsResponse(datasets=map(convert.dataset, page.items), next_page_token=page.next_page_token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Any) -> pb.Deletion:
        name = visible(DatasetName.parse(request.name))
        record = await to_thread(
            self._store.datasets.delete,
            *(name.tenant, name.dataset),
            by=caller(),
            reason=request.reason,
            request=request_of(request),
        )
        return convert.deletion(name, record)
