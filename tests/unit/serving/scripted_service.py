"""The serving service over a real socket, with a scripted engine, on a loop and a thread of its own; the registry beside it."""

import asyncio
import secrets
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from adapter_store import AdapterStore, read_base
from adapter_store.api.audit_registry import registry_tellers
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME as REGISTRY
from adapter_store.api.servicer import RegistryServicer
from graftwork.client import Client
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.rpc.server import build_server
from graftwork.v1 import registry_pb2_grpc, serving_pb2_grpc
from serving_service.api.audit import serving_tellers
from serving_service.api.servicer import ServingServicer
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.service import Merging, Serving
from tests.store_samples import make_base
from tests.unit.serving.scripted import ADMISSION, ScriptedEngine

SERVING = "graftwork.v1.ServingService"
OPERATOR = OPERATOR_PREFIX + secrets.token_hex(24)
_Answer = TypeVar("_Answer")


class ScriptedService:
    """Both services on one port; `stop` ends them.

    Args:
        folder: for everything they write.
        store: of adapters and tenants.
        engine: what generates.
        tenant_defaults: limits of tenants whose record has none.
        merging: None merges nothing.
    """

    def __init__(
        self,
        folder: Path,
        store: AdapterStore,
        engine: ScriptedEngine,
        tenant_defaults: TenantPolicy,
        merging: Merging | None = None,
    ) -> None:
        self.engine = engine
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.address = self.run(self._start(folder, store, tenant_defaults, merging))

    def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Does something on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _start(
        self, folder: Path, store: AdapterStore, tenant_defaults: TenantPolicy, merging: Merging | None
    ) -> str:
        key_file = folder / "operator.key"
        key_file.write_text(OPERATOR)
        base = read_base(make_base(folder / "base"))
        self._serving = Serving(
            store=store,
            base=base,
            engine=self.engine,
            cache_dir=folder / "cache",
            disk_budget_bytes=10**9,
            host_budget_bytes=10**9,
            max_lora_rank=16,
            limits=PromptLimits(1000, 10),
            admission=ADMISSION,
            tenant_defaults=tenant_defaults,
            merging=merging,
        )
        await self._serving.start()
        keyring = Keyring(store, key_file)
        self._trail = AuditTrail(store, folder / "audit", registry_tellers(store) | serving_tellers())
        self._rpc = await build_server(
            authenticator=keyring, host="127.0.0.1", port=0, service_names=[SERVING, REGISTRY], trail=self._trail
        )
        servicer = ServingServicer(self._serving, self._tell)
        serving_pb2_grpc.add_ServingServiceServicer_to_server(servicer, self._rpc.server)
        registry = RegistryServicer(store, base, folder / "staging", trail=self._trail)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, self._rpc.server)
        await self._rpc.server.start()
        await self._rpc.set_serving(True)
        return f"127.0.0.1:{self._rpc.port}"

    async def _tell(self) -> None:
        await self._rpc.set_serving(self._serving.readiness().ready, "", SERVING)

    @property
    def running(self) -> int:
        """Requests under way."""
        return self._serving.running

    def client(self, key: str = OPERATOR) -> Client:
        """The SDK on both."""
        return Client(self.address, self.address, key)

    def end(self) -> None:
        """Drains for the last time, as at a signal."""

        async def end() -> None:
            self._serving.drain(ending=True)

        self.run(end())

    def stop(self) -> None:
        """Ends what runs and the thread."""
        self.run(self._rpc.server.stop(None))
        self.run(self._serving.stop())
        self._trail.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()
