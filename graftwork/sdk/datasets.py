"""Data sets: results, findings about rows, and the calls that give them."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from graftwork.client.errors import RemoteError, RemoteInvalid
from graftwork.client.plans import format_of, refused_rows
from graftwork.client.registry import CHUNK_BYTES
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call, FileProgress, Listing
from graftwork.sdk.names import last_id
from graftwork.sdk.reading import read_enum, read_time
from graftwork.sdk.tenants import new_request_id
from graftwork.v1 import common_pb2, registry_pb2, trainer_pb2

Row = Mapping[str, Any]
"""`{"instruction": str, "input": str (may be missing), "response": str}`, or `{"messages": [{"role": str, "content": str}, ...]}`."""


class Level(StrEnum):
    """How bad a finding is."""

    UNSPECIFIED = "unspecified"
    INFO = "info"
    WARNING = "warning"
    """Works, and is likely to disappoint."""
    ERROR = "error"
    """Refused."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about rows or about a recipe; never holds a row's text.

    Attributes:
        level: how bad it is. code: stable. message: what it is. fix: what to do; empty: nothing.
        count: rows that it is true of; 0: it is not about rows.
        lines: the first few of them, from 1.
    """

    level: Level
    code: str
    message: str
    fix: str
    count: int
    lines: tuple[int, ...]

    @classmethod
    def of(cls, message: common_pb2.Finding) -> "Finding":
        return cls(
            level=read_enum(Level, common_pb2.Finding.Level, message.level, "LEVEL_"),
            code=message.code,
            message=message.message,
            fix=message.fix,
            count=message.count,
            lines=tuple(message.lines),
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """An uploaded and checked data set; immutable, the same content has the same id.

    Attributes:
        id, name: `ds-...` and `tenants/acme/datasets/ds-...`.
        display_name: for people.
        sha256: of the stored bytes, hex.
        size_bytes: of the stored bytes.
        rows: how many.
        created: UTC.
        findings: what did not keep it out.
    """

    id: str
    name: str
    display_name: str
    sha256: str
    size_bytes: int
    rows: int
    created: datetime | None
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, message: common_pb2.Dataset) -> "Dataset":
        return cls(
            id=last_id(message.name),
            name=message.name,
            display_name=message.display_name,
            sha256=message.sha256,
            size_bytes=message.size_bytes,
            rows=message.rows,
            created=read_time(message, "create_time"),
            findings=tuple(map(Finding.of, message.findings)),
        )


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was hidden, and until when it can come back.

    Attributes:
        name: of what was deleted.
        deleted: UTC.
        kept_until: UTC; garbage collection leaves the bytes alone until then.
    """

    name: str
    deleted: datetime | None
    kept_until: datetime | None

    @classmethod
    def of(cls, message: registry_pb2.Deletion) -> "Deletion":
        return cls(message.name, read_time(message, "create_time"), read_time(message, "purge_time"))


class RowsRefused(RemoteInvalid):
    """An upload with rows that cannot be trained on; nothing was stored.

    Attributes:
        rows: that were sent. wrong_rows: that cannot be used.
        findings: what is wrong, with line numbers; errors first.
    """

    def __init__(self, error: RemoteError, report: trainer_pb2.DatasetReport) -> None:
        super().__init__(str(error), error.request_id, error.details, error.retry_after_seconds)
        self.rows, self.wrong_rows = report.rows, report.wrong_rows
        self.findings = tuple(map(Finding.of, report.findings))


def with_findings(error: RemoteError) -> RemoteError:
    """Returns an upload's error, as `RowsRefused` when the rows were its reason."""
    report = refused_rows(error)
    return RowsRefused(error, report) if report is not None else error


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes to send as a data set.

    Attributes:
        open: opens them from the beginning.
        file_format: JSON lines or Parquet.
        display_name: for people.
    """

    open: Callable[[], BinaryIO]
    file_format: common_pb2.DatasetFormat
    display_name: str


def as_upload(rows: Path | str | Iterable[Row], display_name: str) -> Upload:
    """Takes a file or rows in memory.

    Raises:
        TypeError, ValueError: a row that is no JSON.
    """
    if isinstance(rows, Path | str):
        path = Path(rows)
        return Upload(lambda: path.open("rb"), format_of(path), display_name or path.name)
    text = "".join(_line(number, row) for number, row in enumerate(rows, 1)).encode()
    return Upload(lambda: io.BytesIO(text), common_pb2.DATASET_FORMAT_JSONL, display_name or "rows")


def _line(number: int, row: Row) -> str:
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise type(error)(f"row {number} is no JSON ({error}); a row is a dict of texts, or of messages") from None


def upload_dataset(parent: str, upload: Upload, progress: Callable[[int, int], None] | None) -> Call[Dataset]:
    """Raises OSError, here and not inside gRPC's thread, for a file that cannot be read."""
    with upload.open() as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]  # BytesIO fits too
        size = source.seek(0, io.SEEK_END)
    header = trainer_pb2.UploadDatasetHeader(
        parent=parent, display_name=upload.display_name, format=upload.file_format, sha256=digest
    )
    counted = FileProgress(size, progress)

    def pieces() -> Iterator[trainer_pb2.UploadDatasetRequest]:
        counted.restart()
        yield trainer_pb2.UploadDatasetRequest(header=header)
        with upload.open() as source:
            while chunk := source.read(CHUNK_BYTES):
                yield trainer_pb2.UploadDatasetRequest(chunk=chunk)
                counted.add(len(chunk))

    # Repeatable since the id is made from the content, and the digest tells a try that was cut from a whole one.
    return Call(Api.TRAINER, "UploadDataset", pieces, Dataset.of, FILE_TIMEOUT_S)


def get_dataset(name: str) -> Call[Dataset]:
    return Call(Api.REGISTRY, "GetDataset", registry_pb2.GetDatasetRequest(name=name), Dataset.of)


def list_datasets(parent: str) -> Listing[Dataset]:
    return Listing(
        Api.REGISTRY,
        "ListDatasets",
        lambda token: registry_pb2.ListDatasetsRequest(parent=parent, page_token=token),
        lambda page: [Dataset.of(item) for item in page.datasets],
    )


def delete_dataset(name: str, reason: str) -> Call[Deletion]:
    request = registry_pb2.DeleteDatasetRequest(name=name, reason=reason, request_id=new_request_id())
    return Call(Api.REGISTRY, "DeleteDataset", request, Deletion.of)
