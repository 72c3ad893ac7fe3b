"""ServingService's methods: convert, delegate, convert back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc.aio
import structlog

from graftwork.errors import ErrorCode
from graftwork.rpc.audit import found_before
from graftwork.rpc.auth import current_principal
from graftwork.rpc.status import ERROR_CODE_KEY, REQUEST_ID_KEY
from graftwork.v1 import serving_pb2, serving_pb2_grpc
from serving_service.api import convert, convert_traffic
from serving_service.api.patience import SECONDS, Patience
from serving_service.core.service import Serving
from serving_service.core.tenant_policies import OPERATORS

log = structlog.get_logger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class ServingServicer(serving_pb2_grpc.ServingServiceServicer):
    """The gRPC face of `core.service.Serving`."""

    def __init__(self, serving: Serving, tell: Callable[[], Awaitable[None]]) -> None:
        """`tell` tells load balancers anew whether requests can succeed: gRPC's health."""
        self._serving, self._operations, self._tell = serving, serving.operations, tell
        self._ending = set[asyncio.Task[None]]()  # the loop itself keeps no task

    async def Generate(
        self, request: serving_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[serving_pb2.GenerateResponse]:
        """Streams an answer. A cancelled call closes the stream, which stops generating; so does a reader that takes nothing."""
        caller = current_principal()
        tenant, owner = convert.tenant_of(request.parent, request.model, caller)
        call = convert.call_of(
            request, tenant, owner, account=caller.tenant or OPERATORS, deadline=convert.deadline_of(context)
        )
        async with contextlib.aclosing(self._serving.generate(call)) as events:
            # gRPC buffers for a reader up to its window, and then its write waits for as long as the connection lasts.
            with self._patient(context) as patience:
                async for event in events:
                    patience.sending()
                    yield convert.response_of(event)
                    patience.sent()

    async def GetServingInfo(
        self, request: serving_pb2.GetServingInfoRequest, context: Context
    ) -> serving_pb2.ServingInfo:
        """Says what runs here; sizes are 0 and ready is false while the engine loads."""
        about, states, principal = self._serving.about(), self._serving.readiness(), current_principal()
        return serving_pb2.ServingInfo(
            version=about.version,
            base_model=about.base_model,
            base_digest=about.base_digest,
            max_loras=about.max_loras,
            max_lora_rank=about.max_lora_rank,
            max_model_len=about.max_model_len,
            ready=states.ready,
            model=convert.part_of(states.model, principal),
            store=convert.part_of(states.store, principal),
            draining=convert.part_of(states.draining, principal),
        )

    async def GetTraffic(self, request: serving_pb2.GetTrafficRequest, context: Context) -> serving_pb2.Traffic:
        """Says what was asked of this node, and what came of it."""
        tenant = convert_traffic.tenant_of(request.parent, current_principal())
        traffic = self._serving.traffic
        if tenant is None:
            return await convert_traffic.traffic_of(await traffic.report(series=request.series))
        return convert_traffic.one_tenants_of(traffic.seconds, traffic.of(tenant, series=request.series))

    async def ListResidency(
        self, request: serving_pb2.ListResidencyRequest, context: Context
    ) -> serving_pb2.ListResidencyResponse:
        """Lists the adapters that are here."""
        current_principal().require_overseer()
        rows = await self._operations.residents()
        return serving_pb2.ListResidencyResponse(
            adapters=map(convert.residency_of, rows), merged=map(convert.merged_of, self._operations.merged())
        )

    async def Prefetch(self, request: serving_pb2.PrefetchRequest, context: Context) -> serving_pb2.Residency:
        """Brings a version in before anybody asks for it."""
        current_principal().require_operator()
        row = await self._operations.prefetch(
            request.tenant, request.model, convert.tier_of(request.tier), before=found_before
        )
        return convert.residency_of(row)

    async def Pin(self, request: serving_pb2.PinRequest, context: Context) -> serving_pb2.Residency:
        """Keeps a version in host memory, or lets it go again."""
        current_principal().require_operator()
        call = self._operations.unpin if request.unpin else self._operations.pin
        return convert.residency_of(await call(request.tenant, request.model, before=found_before))

    async def Evict(self, request: serving_pb2.EvictRequest, context: Context) -> serving_pb2.EvictResponse:
        """Drops a version from engine, host memory and disk."""
        current_principal().require_operator()
        freed = await self._operations.evict(request.tenant, request.adapter, request.version, before=found_before)
        return serving_pb2.EvictResponse(freed_disk_bytes=freed)

    async def Promote(self, request: serving_pb2.PromoteRequest, context: Context) -> serving_pb2.Merged:
        """Wants a version merged."""
        current_principal().require_operator()
        row = await self._operations.promote(request.tenant, request.model, wait=request.wait, before=found_before)
        return convert.merged_of(row)

    async def Demote(self, request: serving_pb2.DemoteRequest, context: Context) -> serving_pb2.Merged:
        """Ends a version's merged engine."""
        current_principal().require_operator()
        return convert.merged_of(await self._operations.demote(request.tenant, request.model, before=found_before))

    async def Drain(self, request: serving_pb2.DrainRequest, context: Context) -> serving_pb2.DrainResponse:
        """Takes this node out of traffic, or back."""
        current_principal().require_operator()
        seconds = convert.wait_of(request.wait_seconds)
        found_before(self._serving.readiness().draining.state)
        if request.resume:
            self._serving.resume()
        else:
            self._serving.drain()
        # Shielded: who leaves now shall not leave a node that refuses requests and says that it takes them.
        await asyncio.shield(self._tell())
        if not request.resume:
            await self._serving.drained(seconds)
        # As it is now: somebody may have done the opposite meanwhile.
        draining = self._serving.readiness().draining.state == "yes"
        return serving_pb2.DrainResponse(draining=draining, running=self._serving.running)

    @contextlib.contextmanager
    def _patient(self, context: Context) -> Iterator[Patience]:
        """Ends the call of a reader that takes nothing, as its leaving would."""
        call = asyncio.current_task()
        assert call is not None

        def over() -> None:
            ending = asyncio.create_task(_end(call, context))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

        patience = Patience(over)
        try:
            yield patience
        finally:
            patience.close()


async def _end(call: "asyncio.Task[Any]", context: Context) -> None:
    log.info("the reader of a stream has gone")
    call.cancel()
    await asyncio.wait({call})  # which gives back what it holds
    # gRPC tells nobody of a call that ends so: a reader that goes on after all would wait for ever.
    with contextlib.suppress(grpc.aio.BaseError):  # or it has left by now
        text = f"a piece of the answer waited {SECONDS:.0f} s to be taken; ask again"
        known = structlog.contextvars.get_contextvars().get("request_id", "")
        trailing = ((REQUEST_ID_KEY, known), (ERROR_CODE_KEY, ErrorCode.CANCELLED.value))
        await context.abort(grpc.StatusCode.CANCELLED, text, trailing)
