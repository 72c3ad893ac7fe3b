"""`client.adapters` of the asynchronous client."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path

from graftwork.client.folders import new_folder
from graftwork.sdk import adapter_files
from graftwork.sdk import adapters as calls
from graftwork.sdk.adapter_files import Registered
from graftwork.sdk.adapters import Adapter, Alias, FileCheck, Version
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.datasets import Deletion
from graftwork.sdk.differences import VersionDiff, diff_versions
from graftwork.sdk.merging import MergedFolder, MergeReport, merge_version
from graftwork.sdk.names import Scope
from graftwork.sdk.signatures import Signature, sign_version


class AsyncAdapters:
    """See `Adapters`."""

    def __init__(self, wire: AsyncWire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def list(self) -> AsyncIterator[Adapter]:
        """See `Adapters.list`."""
        return self._wire.list(calls.list_adapters(self._scope.parent))

    async def get(self, adapter: str) -> Adapter:
        """See `Adapters.get`."""
        return await self._wire.call(calls.get_adapter(self._scope.adapter(adapter)))

    def versions(self, adapter: str) -> AsyncIterator[Version]:
        """See `Adapters.versions`."""
        return self._wire.list(calls.list_versions(self._scope.adapter(adapter)))

    async def version(self, adapter: str, version: str = "prod") -> Version:
        """See `Adapters.version`."""
        return await self._wire.call(calls.get_version(self._scope.version_or_alias(adapter, version)))

    async def promote(
        self,
        adapter: str,
        version: str,
        *,
        alias: str = "prod",
        expected_number: int | None = None,
        reason: str = "",
    ) -> Alias:
        """See `Adapters.promote`."""
        self._scope.version(adapter, version)  # a digest's beginning is refused here, with what to do
        name = self._scope.alias(adapter, alias)
        return await self._wire.call(
            calls.set_alias(name, version=version, expected_number=expected_number, reason=reason)
        )

    async def split(
        self,
        adapter: str,
        weights: Mapping[str, int],
        *,
        alias: str = "prod",
        expected_number: int | None = None,
        reason: str = "",
    ) -> Alias:
        """See `Adapters.split`."""
        name = self._scope.alias(adapter, alias)
        return await self._wire.call(
            calls.set_alias(name, split=weights, expected_number=expected_number, reason=reason)
        )

    async def roll_back(
        self, adapter: str, *, alias: str = "prod", expected_number: int | None = None, reason: str = ""
    ) -> Alias:
        """See `Adapters.roll_back`."""
        name = self._scope.alias(adapter, alias)
        return await self._wire.call(calls.roll_back_alias(name, expected_number, reason))

    async def set_route(
        self, adapter: str, route: str, *, alias: str = "prod", expected_number: int | None = None, reason: str = ""
    ) -> Alias:
        """See `Adapters.set_route`."""
        name = self._scope.alias(adapter, alias)
        return await self._wire.call(calls.set_alias_route(name, route, expected_number, reason))

    def history(self, adapter: str, *, alias: str = "prod") -> AsyncIterator[Alias]:
        """See `Adapters.history`."""
        return self._wire.list(calls.alias_history(self._scope.alias(adapter, alias)))

    async def delete_alias(
        self, adapter: str, alias: str, *, expected_number: int | None = None, reason: str = ""
    ) -> Alias:
        """See `Adapters.delete_alias`."""
        return await self._wire.call(calls.delete_alias(self._scope.alias(adapter, alias), expected_number, reason))

    async def delete_version(self, adapter: str, version: str, *, reason: str = "") -> Deletion:
        """See `Adapters.delete_version`."""
        return await self._wire.call(calls.delete_version(self._scope.version(adapter, version), reason))

    async def delete(self, adapter: str, *, reason: str = "") -> tuple[Deletion, ...]:
        """See `Adapters.delete`."""
        return await self._wire.call(calls.delete_adapter(self._scope.adapter(adapter), reason))

    async def verify(self, adapter: str, version: str = "prod") -> tuple[FileCheck, ...]:
        """See `Adapters.verify`."""
        return await self._wire.call(calls.verify_version(self._scope.version_or_alias(adapter, version)))

    async def diff(self, adapter: str, version: str, other: str, *, other_adapter: str = "") -> VersionDiff:
        """See `Adapters.diff`."""
        one = self._scope.version_or_alias(adapter, version)
        return await self._wire.call(diff_versions(one, self._scope.version_or_alias(other_adapter or adapter, other)))

    async def sign(self, adapter: str, key_file: Path | str, *, version: str = "prod") -> Signature:
        """See `Adapters.sign`."""
        found = await self.version(adapter, version)
        return await self._wire.call(sign_version(found.name, found.manifest_sha256, Path(key_file)))

    async def register(
        self,
        adapter: str,
        folder: Path | str,
        *,
        alias: str = "",
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Registered:
        """See `Adapters.register`."""
        call = adapter_files.register_adapter(self._scope.parent, adapter, Path(folder), alias, progress)
        return await self._wire.call(call, timeout)

    async def export(
        self,
        adapter: str,
        folder: Path | str,
        *,
        version: str = "prod",
        progress: Callable[[int, int], None] | None = None,
    ) -> Version:
        """See `Adapters.export`."""
        name = self._scope.version_or_alias(adapter, version)
        with new_folder(Path(folder)) as partial:
            download = adapter_files.Download(partial, progress)
            async with aclosing(self._wire.stream(adapter_files.download_version(name))) as messages:
                async for message in messages:
                    download.take(message)
            return download.finish()

    async def merge(
        self,
        adapter: str,
        folder: Path | str,
        *,
        version: str = "prod",
        evaluate: bool = True,
        progress: Callable[[str, int, int], None] | None = None,
        timeout: float | None = None,
    ) -> MergeReport:
        """See `Adapters.merge`."""
        name = self._scope.version_or_alias(adapter, version)
        with new_folder(Path(folder)) as partial:
            merged = MergedFolder(partial, progress)
            async with aclosing(self._wire.stream(merge_version(name, evaluate=evaluate, timeout=timeout))) as messages:
                async for message in messages:
                    merged.take(message)
            return merged.finish()
