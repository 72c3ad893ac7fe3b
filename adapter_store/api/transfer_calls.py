"""RegistryService's calls that carry an adapter's files."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from adapter_store.api import convert
from adapter_store.api.adapter_calls import find_version
from adapter_store.api.callers import caller, own_tenant, request_of
from adapter_store.base import BaseInfo
from adapter_store.diff import diff_versions
from adapter_store.errors import InvalidAdapter
from adapter_store.registration import MAX_CHUNK_BYTES, Registration, staging_folder
from adapter_store.store import AdapterStore
from graftwork.v1 import registry_pb2 as pb


class TransferCalls:
    """Mixed into `RegistryServicer`, which sets what is declared here."""

    _store: AdapterStore
    _base: BaseInfo
    _staging: Path
    _signing_key_file: Path | None

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
            files=[(file.path, file.size_bytes) for file in first.header.files],
            signing_key_file=self._signing_key_file,
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
            manifest, moved = await to_thread(arriving.publish, by=caller(), request=request_of(first.header))
            signatures = await to_thread(self._store.signatures.list, manifest)
        return pb.RegisterAdapterResponse(
            version=convert.version(manifest, signatures), alias=convert.alias(moved) if moved else None
        )

    async def DownloadVersion(
        self, request: pb.DownloadVersionRequest, context: Any
    ) -> AsyncIterator[pb.DownloadVersionResponse]:
        manifest = await find_version(self._store, request.name)
        with staging_folder(self._staging) as folder:
            # Whole and verified before the first byte leaves: a stream cannot take back what it has sent.
            await to_thread(self._store.versions.fetch, manifest, folder / "version")
            yield pb.DownloadVersionResponse(version=convert.version(manifest))
            for file in manifest.files:
                yield pb.DownloadVersionResponse(file=convert.file(file))
                with (folder / "version" / file.path).open("rb") as source:
                    while chunk := await to_thread(source.read, MAX_CHUNK_BYTES):
                        yield pb.DownloadVersionResponse(chunk=chunk)

    async def VerifyVersion(self, request: pb.VerifyVersionRequest, context: Any) -> pb.VerifyVersionResponse:
        manifest = await find_version(self._store, request.name)
        checks = await to_thread(self._store.versions.verify, manifest)
        files = [pb.FileCheck(file=convert.file(check.file), problem=check.problem) for check in checks]
        signatures = await to_thread(self._store.signatures.list, manifest)
        return pb.VerifyVersionResponse(version=convert.version(manifest, signatures), files=files)

    async def DiffVersions(self, request: pb.DiffVersionsRequest, context: Any) -> pb.DiffVersionsResponse:
        one = await find_version(self._store, request.name)
        other = await find_version(self._store, request.other)
        with staging_folder(self._staging) as folder:
            values, modules = await to_thread(diff_versions, self._store, one, other, folder)
        return pb.DiffVersionsResponse(
            one=convert.version(one),
            other=convert.version(other),
            values=map(convert.value_diff, values),
            modules=map(convert.module_diff, modules),
        )
