"""`client.datasets` of the asynchronous client."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

from graftwork.client.errors import RemoteError
from graftwork.sdk import datasets as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.calls import Stream
from graftwork.sdk.datasets import Dataset, Deletion, Row
from graftwork.sdk.names import Scope
from graftwork.sdk.validation import DatasetReport, Looking, validate_rows, validate_stored


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

    async def validate(
        self,
        rows: Path | str | Iterable[Row],
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        sample_rows: int = 0,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> DatasetReport:
        """See `Datasets.validate`."""
        return await self._look(
            validate_rows(
                self._scope.parent,
                calls.as_upload(rows, ""),
                max_length=max_length,
                preview_rows=preview_rows,
                sample_rows=sample_rows,
                timeout=timeout,
            ),
            progress,
        )

    async def validate_stored(
        self,
        dataset: Dataset | str,
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        sample_rows: int = 0,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> DatasetReport:
        """See `Datasets.validate_stored`."""
        name = dataset.name if isinstance(dataset, Dataset) else self._scope.dataset(dataset)
        return await self._look(
            validate_stored(
                name, max_length=max_length, preview_rows=preview_rows, sample_rows=sample_rows, timeout=timeout
            ),
            progress,
        )

    async def get(self, dataset: str) -> Dataset:
        """See `Datasets.get`."""
        return await self._wire.call(calls.get_dataset(self._scope.dataset(dataset)))

    def list(self) -> AsyncIterator[Dataset]:
        """See `Datasets.list`."""
        return self._wire.list(calls.list_datasets(self._scope.parent))

    async def delete(self, dataset: str, *, reason: str = "") -> Deletion:
        """See `Datasets.delete`."""
        return await self._wire.call(calls.delete_dataset(self._scope.dataset(dataset), reason))

    async def _look(self, stream: Stream, progress: Callable[[int, int], None] | None) -> DatasetReport:
        looking = Looking(progress)
        async with aclosing(self._wire.stream(stream)) as messages:
            async for message in messages:
                looking.take(message)
        return looking.report()
