"""A registry's server in the test's own process, over a real socket."""

import asyncio
import threading
from pathlib import Path

from adapter_store import AdapterStore, read_base
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME, RegistryServicer
from graftwork.rpc.server import build_server
from graftwork.v1 import registry_pb2_grpc
from tests.store_samples import make_base

OPERATOR = "gwop_operator"


class Registry:
    """A server in a thread of its own, as the services run it."""

    def __init__(self, store: AdapterStore, key_file: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(store, key_file), self._loop).result(30)

    async def _start(self, store: AdapterStore, key_file: Path) -> int:
        self._rpc = await build_server(
            authenticator=Keyring(store, key_file), host="127.0.0.1", port=0, service_names=[SERVICE_NAME]
        )
        base = read_base(make_base(key_file.parent / "base"))
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(
            RegistryServicer(store, base, key_file.parent / "staging"), self._rpc.server
        )
        await self._rpc.server.start()
        return self._rpc.port

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._rpc.server.stop(None), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
