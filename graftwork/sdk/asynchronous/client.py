"""The asynchronous client: where it finds the services, what it offers, and generation."""

from typing import Self, Unpack

from graftwork.sdk import answers
from graftwork.sdk.answers import Answer, Options, Prompt
from graftwork.sdk.asynchronous.adapters import AsyncAdapters
from graftwork.sdk.asynchronous.audit import AsyncAudit
from graftwork.sdk.asynchronous.datasets import AsyncDatasets
from graftwork.sdk.asynchronous.jobs import AsyncJobs
from graftwork.sdk.asynchronous.serving import AsyncServing
from graftwork.sdk.asynchronous.streaming import AsyncAnswerStream
from graftwork.sdk.asynchronous.tenants import AsyncTenants
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.callers import Caller, get_caller
from graftwork.sdk.calls import CALL_TIMEOUT_S, Patience
from graftwork.sdk.names import Scope
from graftwork.sdk.places import File, find_places


class AsyncClient:
    """`Client` for asyncio: the same arguments, calls, results and errors; what waits is awaited, lists and watches are
    iterated over with `async for`. Make it inside a running event loop, and use it there only.
    """

    def __init__(
        self,
        *,
        trainer: str | None = None,
        serving: str | None = None,
        api_key: str | None = None,
        tenant: str | None = None,
        tls_ca: File | None = None,
        tls_certificate: File | None = None,
        tls_key: File | None = None,
        home: File | None = None,
        timeout: float = CALL_TIMEOUT_S,
        retries: int = 3,
    ) -> None:
        places = find_places(trainer, serving, api_key, tls_ca, home, tls_certificate, tls_key)
        self._owns_wire = True
        self._bind(AsyncWire(places, timeout, Patience(retries)), tenant or places.tenant)

    def _bind(self, wire: AsyncWire, tenant: str | None) -> None:
        self._wire, self._scope, self.tenant = wire, Scope(tenant), tenant
        self.tenants = AsyncTenants(wire)
        self.datasets = AsyncDatasets(wire, self._scope)
        self.jobs = AsyncJobs(wire, self._scope)
        self.adapters = AsyncAdapters(wire, self._scope)
        self.serving = AsyncServing(wire, self._scope)
        self.audit = AsyncAudit(wire, self._scope)

    def for_tenant(self, tenant: str) -> "AsyncClient":
        """See `Client.for_tenant`."""
        other = AsyncClient.__new__(AsyncClient)
        other._owns_wire = False
        other._bind(self._wire, tenant)
        return other

    async def whoami(self) -> Caller:
        """See `Client.whoami`."""
        return await self._wire.call(get_caller())

    async def generate(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """See `Client.generate`; cancelling the task stops the generation."""
        async with self.stream(prompt, model=model, timeout=timeout, **options) as stream:
            return await stream.answer()

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> AsyncAnswerStream:
        """See `Client.stream`."""
        parent = self._scope.parent if model or self.tenant else ""
        return AsyncAnswerStream(self._wire.stream(answers.generate(parent, model, prompt, options, timeout)))

    async def close(self) -> None:
        """See `Client.close`."""
        if self._owns_wire:
            await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
