"""Receiving a data set: bytes to a private file, rows checked, then the store.

Nothing is visible before every row has passed. Owns the limit on size and the temporary file's life.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from adapter_store import AdapterStore
from adapter_store.manifest import DatasetManifest
from trainer_service.core.errors import DatasetTooLarge
from trainer_service.core.rows import read_rows

DatasetFormat = Literal["jsonl", "parquet"]


async def receive(
    store: AdapterStore,
    chunks: AsyncIterator[bytes],
    *,
    tenant: str,
    display_name: str,
    file_format: DatasetFormat,
    folder: Path,
    max_bytes: int,
) -> DatasetManifest:
    """Takes an upload in.

    Args:
        store: where it goes.
        chunks: the file's bytes in order.
        tenant: the owner; must exist.
        display_name: for people.
        file_format: jsonl or parquet.
        folder: where the bytes wait, there already; the file is removed in every case.
        max_bytes: largest file accepted.

    Raises:
        DatasetTooLarge: more than `max_bytes`.
        InvalidRows: see `rows.read_rows`.
    """
    await asyncio.to_thread(store.tenants.get, tenant)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-") as file:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise DatasetTooLarge(f"the data set has more than {max_bytes} bytes; send less, or raise the limit")
            await asyncio.to_thread(file.write, chunk)
        file.flush()
        path = Path(file.name)
        rows = await asyncio.to_thread(_count_valid, path, file_format)
        return await asyncio.to_thread(
            store.datasets.put, tenant, path, display_name=display_name, format=file_format, rows=rows
        )


def _count_valid(path: Path, file_format: str) -> int:
    return sum(1 for _ in read_rows(path, file_format))
