"""Merges on request: one process at a time, its progress, its files, and nothing left behind.

Owns the folder of a merge for as long as its caller listens. Does not own the merge (`engine.merge`).
"""

import asyncio
import secrets
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from adapter_store.manifest import VersionManifest
from trainer_service.core.child import Child, start_child, write_private
from trainer_service.core.errors import MergeInterrupted, MergeRefused, NoRoom
from trainer_service.core.merge_messages import (
    MERGE_MESSAGE,
    MergedFile,
    MergeFailed,
    MergeMessage,
    MergeProgress,
    MergeReport,
    MergeSpec,
)

ENGINE = "trainer_service.engine.merge"
_CHUNK = 1 << 20
_ROOM = 1.1
"""Of the backbone's size: what a merge needs on the disk, its adapter and data set among it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the file that was begun last."""

    data: bytes


MergePart = MergeProgress | MergeReport | MergedFile | Chunk


@dataclass(frozen=True)
class MergeSettings:
    """What every merge of a service is told."""

    folder: Path
    """Every merge has a folder of its own in it."""
    backbone: Path
    store_url: str
    device: Literal["cpu", "cuda"]
    threads: int


class Merger:
    """Makes merged folders and hands out their bytes."""

    def __init__(self, settings: MergeSettings) -> None:
        """Empties the folder: what lies there is of a service that was killed."""
        self._settings = settings
        shutil.rmtree(settings.folder, ignore_errors=True)
        settings.folder.mkdir(parents=True, mode=0o700)
        self._turn = asyncio.Lock()

    async def merge(self, version: VersionManifest, *, evaluate: bool) -> AsyncGenerator[MergePart, None]:
        """Yields progress, the report, and each file's name and bytes. Closing it early ends the process.

        Raises:
            MergeRefused: the backbone or the adapter cannot be merged, or the result is not what the adapter is.
            MergeInterrupted: the process was ended from outside, or the store is away.
            NoRoom: the disk is too full.
        """
        if self._turn.locked():
            yield MergeProgress(stage="waiting")
        async with self._turn:  # one copy of the backbone on the disk at a time
            work_dir = self._settings.folder / secrets.token_hex(8)
            await asyncio.to_thread(work_dir.mkdir, mode=0o700)
            try:
                self._check_room()
                # Closed here and not by the garbage collector: the process of a caller who left must end now.
                async with aclosing(self._run(version, work_dir, evaluate)) as messages:
                    async for message in messages:
                        yield message
                for file in message.files if isinstance(message, MergeReport) else ():
                    yield file
                    async with aclosing(_bytes_of(work_dir / "merged" / file.path)) as chunks:
                        async for chunk in chunks:
                            yield chunk
            finally:
                await asyncio.to_thread(shutil.rmtree, work_dir, ignore_errors=True)

    def _check_room(self) -> None:
        size = sum(file.stat().st_size for file in self._settings.backbone.glob("*.safetensors"))
        free = shutil.disk_usage(self._settings.folder).free
        if free < size * _ROOM:
            raise NoRoom(
                f"a merge needs {size * _ROOM / 2**30:.1f} GiB below {self._settings.folder}, {free / 2**30:.1f} are free"
            )

    async def _run(
        self, version: VersionManifest, work_dir: Path, evaluate: bool
    ) -> AsyncGenerator[MergeProgress | MergeReport, None]:
        spec = work_dir / "spec.json"
        write_private(spec, self._spec(version, work_dir, evaluate).model_dump_json())
        log_file = self._settings.folder.with_suffix(".log")
        child = await start_child(ENGINE, spec, log_file, threads=self._settings.threads)
        log.info("merge_started", tenant=version.tenant, adapter=version.adapter, pid=child.pid)
        try:
            while lines := await child.lines():
                for line in lines:
                    message: MergeMessage = MERGE_MESSAGE.validate_json(line)
                    if isinstance(message, MergeFailed):
                        _raise(message)
                    else:
                        yield message
                        if isinstance(message, MergeReport):
                            return
        finally:
            status = await _end(child)
            log.info("merge_ended", tenant=version.tenant, adapter=version.adapter, status=status)
        raise MergeInterrupted(f"the merge's process ended (status {status}) before it was done; try again")

    def _spec(self, version: VersionManifest, work_dir: Path, evaluate: bool) -> MergeSpec:
        return MergeSpec(
            tenant=version.tenant,
            adapter=version.adapter,
            version=version.version,
            backbone=self._settings.backbone,
            store_url=self._settings.store_url,
            work_dir=work_dir,
            device=self._settings.device,
            threads=self._settings.threads,
            evaluate=evaluate,
        )


async def _end(child: Child) -> int:
    child.kill()  # nothing of it is needed any more, or nobody listens
    return await asyncio.shield(child.wait())


def _raise(failed: MergeFailed) -> None:
    if failed.reason == "refused":
        raise MergeRefused(failed.message)
    if failed.reason == "unavailable":
        raise MergeInterrupted(failed.message)
    raise RuntimeError(failed.message)


async def _bytes_of(file: Path) -> AsyncGenerator[Chunk, None]:
    with await asyncio.to_thread(file.open, "rb") as source:
        while data := await asyncio.to_thread(source.read, _CHUNK):
            yield Chunk(data)
