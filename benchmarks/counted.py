"""A backend that counts the requests that go to the store behind it."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from adapter_store.backends.protocol import Backend, Entry


class CountedBackend:
    """Implements `Backend` by another one.

    Attributes:
        requests: calls so far; each is one request to an object store, but for long listings and multipart uploads.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.requests = 0

    @property
    def parallel_reads(self) -> int:
        return self._backend.parallel_reads

    def create(self, key: str, data: bytes) -> bool:
        self.requests += 1
        return self._backend.create(key, data)

    def put_file(self, key: str, file: Path) -> None:
        self.requests += 1
        self._backend.put_file(key, file)

    def entry(self, key: str) -> Entry | None:
        self.requests += 1
        return self._backend.entry(key)

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.requests += 1
        return self._backend.read(key, offset=offset, length=length)

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        self.requests += 1
        return self._backend.read_into(key, take, offset=offset, length=length)

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        self.requests += 1
        return self._backend.children(prefix, after=after, limit=limit)

    def delete(self, key: str) -> None:
        self.requests += 1
        self._backend.delete(key)

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        self.requests += 1
        return self._backend.walk(prefix, after=after)

    def unfinished(self) -> Iterator[Entry]:
        self.requests += 1
        return self._backend.unfinished()

    def discard(self, write: Entry) -> None:
        self.requests += 1
        self._backend.discard(write)
