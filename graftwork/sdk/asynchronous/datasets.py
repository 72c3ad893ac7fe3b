"""`client.datasets` of the asynchronous client."""

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from graftwork.client.errors import RemoteError
from graftwork.sdk import datasets as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.datasets import Dataset, Deletion, Row
from graftwork.sdk.names import Scope


class AsyncDatasets:
    """See `Datasets`."""

    def __init__(self, wire: AsyncWire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    async def upload(
        self,
        rows: Path | str | Iterable[Row],
        *,
        display_name: str = "",
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Dataset:
        """See `Datasets.upload`."""
        call = calls.upload_dataset(self._scope.parent, calls.as_upload(rows, display_name), progress)
        try:
            return await self._wire.call(call, timeout)
        except RemoteError as error:
            raise calls.with_findings(error) from None

    async def get(self, dataset: str) -> Dataset:
        """See `Datasets.get`."""
        return await self._wire.call(calls.get_dataset(self._scope.dataset(dataset)))

    def list(self) -> AsyncIterator[Dataset]:
        """See `Datasets.list`."""
        return self._wire.list(calls.list_datasets(self._scope.parent))

    async def delete(self, dataset: str, *, reason: str = "") -> Deletion:
        """See `Datasets.delete`."""
        return await self._wire.call(calls.delete_dataset(self._scope.dataset(dataset), reason))
