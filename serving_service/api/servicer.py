"""ServingService's methods: convert, delegate, convert back."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from graftwork.rpc.auth import current_principal
from graftwork.v1 import serving_pb2, serving_pb2_grpc
from serving_service.api import convert
from serving_service.core.service import Serving

Context = grpc.aio.ServicerContext[Any, Any]


class ServingServicer(serving_pb2_grpc.ServingServiceServicer):
    """The gRPC face of `core.service.Serving`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def Generate(
        self, request: serving_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[serving_pb2.GenerateResponse]:
        """Streams an answer. A cancelled call closes the stream, which stops generating."""
        tenant, owner = convert.tenant_of(request.parent, request.model, current_principal())
        call = convert.call_of(request, tenant, owner)
        async with contextlib.aclosing(self._serving.generate(call)) as events:
            async for event in events:
                yield convert.response_of(event)

    async def GetServingInfo(
        self, request: serving_pb2.GetServingInfoRequest, context: Context
    ) -> serving_pb2.ServingInfo:
        """Says what runs here; sizes are 0 and ready is false while the engine loads."""
        about = self._serving.about()
        return serving_pb2.ServingInfo(
            version=about.version,
            base_model=about.base_model,
            base_digest=about.base_digest,
            max_loras=about.max_loras,
            max_lora_rank=about.max_lora_rank,
            max_model_len=about.max_model_len,
            ready=about.ready,
        )

    async def ListResidency(
        self, request: serving_pb2.ListResidencyRequest, context: Context
    ) -> serving_pb2.ListResidencyResponse:
        """Lists the adapters that are here."""
        current_principal().require_operator()
        rows = await self._serving.residents()
        return serving_pb2.ListResidencyResponse(adapters=map(convert.residency_of, rows))

    async def Evict(self, request: serving_pb2.EvictRequest, context: Context) -> serving_pb2.EvictResponse:
        """Drops a version from engine, host memory and disk."""
        current_principal().require_operator()
        freed = await self._serving.evict(request.tenant, request.adapter, request.version)
        return serving_pb2.EvictResponse(freed_disk_bytes=freed)
