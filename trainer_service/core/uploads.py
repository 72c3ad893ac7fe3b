"""Data sets on their way in: bytes to a private file, looked through, then the store; or only looked through.

Nothing is visible before every row has passed. Owns the limit on size, the digest of what arrived and the temporary files'
lives. Does not own what is right (`inspection`) nor the store.
"""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapter_store import AdapterStore
from adapter_store.manifest import DatasetFinding, DatasetManifest
from trainer_service.core.errors import DatasetTooLarge, InvalidRequest, InvalidRows
from trainer_service.core.findings import Finding, Level
from trainer_service.core.inspection import Figures, Inspection, InspectionRequest, Progress
from trainer_service.core.inspector import Inspector

DatasetFormat = Literal["jsonl", "parquet"]
EVAL_FRACTION = 0.1
"""Share of rows to look for overlap with, where no recipe says one; the recipe's default."""
MAX_PREVIEW = 20
FIGURE_ROWS = 5_000
"""Rows that are enough for an estimate: their mean length is known to about 1 %."""


@dataclass(frozen=True, slots=True)
class Look:
    """How closely to look at a data set."""

    max_length: int
    """Tokens of a row."""
    eval_fraction: float = EVAL_FRACTION
    preview_rows: int = 0
    sample_rows: int = 0
    """Tokenize about so many rows; 0: all."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    path: Path
    file_format: DatasetFormat
    sha256: str


class Uploads:
    """Takes data sets in."""

    def __init__(
        self, store: AdapterStore, inspector: Inspector, *, backbone: Path, folder: Path, max_bytes: int
    ) -> None:
        """Empties `folder` of what a killed service left.

        Args:
            store: where data sets go.
            inspector: looks through them.
            backbone: folder of the tokenizer.
            folder: for files on their way; private to this service.
            max_bytes: largest file accepted.
        """
        self._store, self._inspector, self._backbone = store, inspector, backbone
        self._folder, self._max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        *,
        tenant: str,
        display_name: str,
        file_format: DatasetFormat,
        sha256: str = "",
    ) -> DatasetManifest:
        """Takes a data set in.

        Args:
            chunks: the file's bytes in order.
            tenant: the owner; must exist.
            display_name: for people.
            file_format: jsonl or parquet.
            sha256: what the sender says of the whole file, in hex; empty: nothing.

        Raises:
            DatasetTooLarge: more than the limit.
            InvalidRequest: what arrived is not what the sender announced.
            InvalidRows: it cannot be trained on; nothing is stored.
            InspectionFailed: it could not be looked through.
        """
        await asyncio.to_thread(self._store.tenants.get, tenant)
        async with self._received(chunks, file_format, sha256) as arrived:
            request = InspectionRequest(
                file=arrived.path, file_format=file_format, digest=arrived.sha256, eval_fraction=EVAL_FRACTION
            )
            seen = await self._inspector.inspect(request)
            if seen.has_errors:
                raise InvalidRows(seen.rows, seen.wrong_rows, seen.findings)
            return await asyncio.to_thread(
                self._store.datasets.put,
                tenant,
                arrived.path,
                display_name=display_name,
                format=file_format,
                rows=seen.rows,
                findings=tuple(map(_stored, seen.findings)),
            )

    async def validate(
        self, chunks: AsyncIterator[bytes], file_format: DatasetFormat, look: Look
    ) -> AsyncGenerator[Progress | Inspection]:
        """Looks through a file and keeps nothing; yields progress, and at last what was found.

        Raises:
            DatasetTooLarge: more than the limit.
            InspectionFailed: it could not be looked through.
        """
        async with (
            self._received(chunks, file_format) as arrived,
            aclosing(self._inspector.follow(self._request(arrived, look))) as steps,
        ):
            async for step in steps:
                yield step

    async def validate_stored(self, tenant: str, dataset: str, look: Look) -> AsyncGenerator[Progress | Inspection]:
        """Looks through a stored data set, like `validate`.

        Raises:
            NotFound: the tenant has no such data set.
        """
        manifest = await asyncio.to_thread(self._store.datasets.get, tenant, dataset)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="stored-") as folder:
            path = await asyncio.to_thread(self._store.datasets.fetch, tenant, dataset, Path(folder) / "rows")
            arrived = _Arrived(path, manifest.format, manifest.sha256)
            async with aclosing(self._inspector.follow(self._request(arrived, look))) as steps:
                async for step in steps:
                    yield step

    async def figures(self, tenant: str, dataset: str, *, max_length: int) -> Figures:
        """Returns how long a stored data set's rows are, from FIGURE_ROWS of them where there are many.

        Raises:
            NotFound: the tenant has no such data set.
            InspectionFailed: it could not be looked through.
        """
        look = Look(max_length=max_length, sample_rows=FIGURE_ROWS)
        async with aclosing(self.validate_stored(tenant, dataset, look)) as steps:
            async for step in steps:
                if isinstance(step, Inspection) and step.figures:
                    return step.figures
        raise AssertionError("unreachable: an inspection with a tokenizer ends with figures or raises")

    def _request(self, arrived: _Arrived, look: Look) -> InspectionRequest:
        return InspectionRequest(
            file=arrived.path,
            file_format=arrived.file_format,
            digest=arrived.sha256,
            eval_fraction=look.eval_fraction,
            backbone=self._backbone,
            max_length=look.max_length,
            sample_rows=look.sample_rows,
            preview_rows=min(look.preview_rows, MAX_PREVIEW),
        )

    @asynccontextmanager
    async def _received(
        self, chunks: AsyncIterator[bytes], file_format: DatasetFormat, sha256: str = ""
    ) -> AsyncIterator[_Arrived]:
        """Writes what arrives to a private file, for as long as the context lasts."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="upload-") as file:
            digest, size = hashlib.sha256(), 0
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    limit = f"the data set has more than {self._max_bytes} bytes"
                    raise DatasetTooLarge(f"{limit}; send less, or raise the limit")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            found = digest.hexdigest()
            if sha256 and found != sha256.lower():
                raise InvalidRequest(
                    f"{size} bytes with sha256 {found:.12} arrived, and {sha256:.12} was announced; send the file again"
                )
            yield _Arrived(Path(file.name), file_format, found)


def _stored(finding: Finding) -> DatasetFinding:
    level: Literal["info", "warning"] = "warning" if finding.level is Level.WARNING else "info"
    return DatasetFinding(level=level, **finding.model_dump(exclude={"level"}))
