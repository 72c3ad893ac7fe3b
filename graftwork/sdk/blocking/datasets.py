"""`client.datasets`: look rows through, upload, look at and delete data sets."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from graftwork.client.errors import RemoteError
from graftwork.sdk import datasets as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.calls import Stream
from graftwork.sdk.datasets import Dataset, Deletion, Row
from graftwork.sdk.names import Scope
from graftwork.sdk.validation import DatasetReport, Looking, validate_rows, validate_stored


class Datasets:
    """Calls about data sets of the client's tenant; a data set is named by its id or its full name."""

    def __init__(self, wire: Wire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def upload(
        self,
        rows: Path | str | Iterable[Row],
        *,
        display_name: str = "",
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Dataset:
        """Uploads rows; every one is checked before anything is stored. The same content gives the same data set.

        Args:
            rows: a file, JSON lines or Parquet (ends with .parquet), or rows in memory. A row is
                `{"instruction": str, "input": str (may be missing), "response": str}` or
                `{"messages": [{"role": "user", "content": str}, {"role": "assistant", "content": str}]}`.
            display_name: for people; the file's name when empty.
            progress: called with (bytes sent, bytes in all).
            timeout: seconds, all tries together; None: an hour.

        Raises:
            RowsRefused: rows that cannot be trained on, with line numbers in `findings`; nothing was stored.
            RemoteInvalid: the file as a whole cannot be used.
            OSError: the file cannot be read. TypeError, ValueError: a row that is no JSON.
        """
        call = calls.upload_dataset(self._scope.parent, calls.as_upload(rows, display_name), progress)
        try:
            return self._wire.call(call, timeout)
        except RemoteError as error:
            raise calls.with_findings(error) from None

    def validate(
        self,
        rows: Path | str | Iterable[Row],
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        sample_rows: int = 0,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> DatasetReport:
        """Looks rows through, with the backbone's tokenizer, and keeps nothing. Wrong rows are in the report, and no error.

        Args:
            rows: as for `upload`.
            max_length: tokens of a row, longer ones are cut; 0: the recipe's default.
            preview_rows: rows to show as the model sees them, at most 20.
            sample_rows: tokenize about so many, drawn by chance; 0: all.
            progress: called with what was looked at and all there is: bytes of JSON lines, rows of Parquet.
            timeout: seconds, all tries together; None: an hour.

        Raises:
            RemoteInvalid: the file as a whole cannot be read.
            OSError: the file cannot be read. TypeError, ValueError: a row that is no JSON.
        """
        return self._look(
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

    def validate_stored(
        self,
        dataset: Dataset | str,
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        sample_rows: int = 0,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> DatasetReport:
        """Looks an uploaded data set through again, as with another `max_length`; see `validate`. Raises RemoteNotFound."""
        name = dataset.name if isinstance(dataset, Dataset) else self._scope.dataset(dataset)
        return self._look(
            validate_stored(
                name, max_length=max_length, preview_rows=preview_rows, sample_rows=sample_rows, timeout=timeout
            ),
            progress,
        )

    def get(self, dataset: str) -> Dataset:
        """Looks a data set up. Raises RemoteNotFound."""
        return self._wire.call(calls.get_dataset(self._scope.dataset(dataset)))

    def list(self) -> Iterator[Dataset]:
        """Yields the tenant's data sets."""
        return self._wire.list(calls.list_datasets(self._scope.parent))

    def delete(self, dataset: str, *, reason: str = "") -> Deletion:
        """Hides a data set; jobs that were admitted with it go on. Uploading it again takes it back. Raises RemoteNotFound."""
        return self._wire.call(calls.delete_dataset(self._scope.dataset(dataset), reason))

    def _look(self, stream: Stream, progress: Callable[[int, int], None] | None) -> DatasetReport:
        looking = Looking(progress)
        with closing(self._wire.stream(stream)) as messages:
            for message in messages:
                looking.take(message)
        return looking.report()
