"""RegistryService's calls that carry an adapter's files."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from adapter_store.api import convert
from adapter_store.api.callers import caller, own_tenant
from adapter_store.base import BaseInfo
from adapter_store.errors import InvalidAdapter
from adapter_store.registration import Registration
from adapter_store.store import AdapterStore
from graftwork.v1 import registry_pb2 as pb


class TransferCalls:
    """Mixed into `RegistryServicer`, which sets what is declared here."""

    _store: AdapterStore
    _base: BaseInfo
    _staging: Path

    async def RegisterAdapter(
        self, request_iterator: AsyncIterator[pb.RegisterAdapterRequest], context: Any
    ) -> pb.RegisterAdapterResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidAdapter("the first message of a registration must be its header")
        arriving = await to_thread(
            Registration,
            self._store,
            self._base,
            self._staging,
            tenant=own_tenant(first.header.parent),
            adapter=first.header.adapter_id,
            alias=first.header.alias,
        )
        with arriving:
            async for message in request_iterator:
                match message.WhichOneof("part"):
                    case "file":
                        await to_thread(arriving.begin, message.file.path)
                    case "chunk":
                        await to_thread(arriving.write, message.chunk)
                    case _:
                        raise InvalidAdapter("a registration has one header, first; only files may follow")
            manifest, moved = await to_thread(arriving.publish, by=caller())
        return pb.RegisterAdapterResponse(
            version=convert.version(manifest), alias=convert.alias(moved) if moved else None
        )
