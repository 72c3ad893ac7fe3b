"""`client.datasets`: upload, look at and delete data sets."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from graftwork.client.errors import RemoteError
from graftwork.sdk import datasets as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.datasets import Dataset, Deletion, Row
from graftwork.sdk.names import Scope


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

    def get(self, dataset: str) -> Dataset:
        """Looks a data set up. Raises RemoteNotFound."""
        return self._wire.call(calls.get_dataset(self._scope.dataset(dataset)))

    def list(self) -> Iterator[Dataset]:
        """Yields the tenant's data sets."""
        return self._wire.list(calls.list_datasets(self._scope.parent))

    def delete(self, dataset: str, *, reason: str = "") -> Deletion:
        """Hides a data set; jobs that were admitted with it go on. Uploading it again takes it back. Raises RemoteNotFound."""
        return self._wire.call(calls.delete_dataset(self._scope.dataset(dataset), reason))
