"""An adapter's files on their way to and from the registry; which files a folder gives is `graftwork.client.folders`'."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.client.folders import DamagedDownload, Receiver, adapter_files, open_plain, plain_size
from graftwork.client.registry import CHUNK_BYTES
from graftwork.sdk.adapters import Alias, Version
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call, FileProgress, Stream
from graftwork.sdk.tenants import new_request_id
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Registered:
    """A version that was taken in, and where its alias points now; None without one."""

    version: Version
    alias: Alias | None

    @classmethod
    def of(cls, message: pb.RegisterAdapterResponse) -> "Registered":
        return cls(Version.of(message.version), Alias.of(message.alias) if message.HasField("alias") else None)


def register_adapter(
    parent: str, adapter: str, folder: Path, alias: str, progress: Callable[[int, int], None] | None
) -> Call[Registered]:
    """Raises InvalidFolder and OSError here, and not inside gRPC's thread."""
    files = adapter_files(folder)
    header = pb.RegisterAdapterHeader(parent=parent, adapter_id=adapter, alias=alias, request_id=new_request_id())
    for name, source in files.items():
        header.files.add(path=name, size_bytes=plain_size(source))
    counted = FileProgress(sum(file.size_bytes for file in header.files), progress)

    def pieces() -> Iterator[pb.RegisterAdapterRequest]:
        counted.restart()
        yield pb.RegisterAdapterRequest(header=header)
        for name, source in files.items():
            yield pb.RegisterAdapterRequest(file=pb.RegisterAdapterFile(path=name))
            with io.BytesIO(source) if isinstance(source, bytes) else open_plain(source) as data:
                while chunk := data.read(CHUNK_BYTES):
                    yield pb.RegisterAdapterRequest(chunk=chunk)
                    counted.add(len(chunk))

    return Call(Api.REGISTRY, "RegisterAdapter", pieces, Registered.of, FILE_TIMEOUT_S)


def download_version(name: str) -> Stream:
    return Stream(Api.REGISTRY, "DownloadVersion", pb.DownloadVersionRequest(name=name), FILE_TIMEOUT_S)


class Download:
    """Writes what `download_version` streams into a folder.

    Args:
        folder: there and empty.
        progress: called with the bytes that arrived and all there are.
    """

    def __init__(self, folder: Path, progress: Callable[[int, int], None] | None) -> None:
        self._folder, self._progress, self._done = folder, progress, 0
        self._version: pb.Version | None = None
        self._receiver = Receiver(folder, ())

    def take(self, message: Any) -> None:
        """Takes the next message. Raises DamagedDownload."""
        match message.WhichOneof("part"):
            case "version":
                self._version = message.version
                files = [(file.path, file.sha256, file.size_bytes) for file in message.version.files]
                self._receiver = Receiver(self._folder, files)
            case "file":
                self._receiver.begin(message.file.path)
            case "chunk":
                self._receiver.write(message.chunk)
                self._done += len(message.chunk)
                if self._progress and self._version:
                    self._progress(self._done, self._version.size_bytes)

    def finish(self) -> Version:
        """Returns whose files they are. Raises DamagedDownload when some are missing or damaged."""
        self._receiver.finish()
        if self._version is None:
            raise DamagedDownload("the service sent nothing; try again")
        return Version.of(self._version)
