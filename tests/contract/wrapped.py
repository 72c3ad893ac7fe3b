"""Backends that wrap a real one: objects made older than they are, and calls stopped one by one."""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Generic, TypeVar

from adapter_store.backends.protocol import Backend, Entry

DAYS = timedelta(days=2)
T = TypeVar("T")


class Wrapped:
    """Passes everything on; `before` is called with the method's name and the key ahead of each call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def real(self) -> Backend:
        """The innermost backend."""
        return self._backend.real if isinstance(self._backend, Wrapped) else self._backend

    def before(self, method: str, key: str) -> None:
        """Nothing, here."""

    @property
    def parallel_reads(self) -> int:
        return self._backend.parallel_reads

    def create(self, key: str, data: bytes) -> bool:
        self.before("create", key)
        return self._backend.create(key, data)

    def put_file(self, key: str, file: Path) -> None:
        self.before("put_file", key)
        self._backend.put_file(key, file)

    def entry(self, key: str) -> Entry | None:
        self.before("entry", key)
        return self._backend.entry(key)

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.before("read", key)
        return self._backend.read(key, offset=offset, length=length)

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        self.before("read_into", key)
        return self._backend.read_into(key, take, offset=offset, length=length)

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        self.before("children", prefix)
        return self._backend.children(prefix, after=after, limit=limit)

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        self.before("walk", prefix)
        return self._backend.walk(prefix, after=after)

    def delete(self, key: str) -> None:
        self.before("delete", key)
        self._backend.delete(key)

    def unfinished(self) -> Iterator[Entry]:
        self.before("unfinished", "")
        return self._backend.unfinished()

    def discard(self, write: Entry) -> None:
        self.before("discard", write.key)
        self._backend.discard(write)


class Aged(Wrapped):
    """Shows what was there when `age` was called as two days older, until it is written anew. No store lets a client set ages."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._old: Counter[str] = Counter()

    def age(self, times: int = 1) -> None:
        for entry in (*self._backend.walk("v1/"), *self._backend.unfinished()):
            self._old[entry.key] += times

    def create(self, key: str, data: bytes) -> bool:
        created = super().create(key, data)
        if created:
            self._old.pop(key, None)
        return created

    def put_file(self, key: str, file: Path) -> None:
        super().put_file(key, file)
        self._old.pop(key, None)

    def entry(self, key: str) -> Entry | None:
        entry = super().entry(key)
        return entry and self._shown(entry)

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return map(self._shown, super().walk(prefix, after=after))

    def unfinished(self) -> Iterator[Entry]:
        return map(self._shown, super().unfinished())

    def _shown(self, entry: Entry) -> Entry:
        return replace(entry, modified=entry.modified - DAYS * self._old[entry.key])


class Interrupted(Wrapped):
    """Runs something of somebody else's right before its k-th call. `calls` counts them."""

    def __init__(self, backend: Backend, at: int = 0, action: Callable[[], object] = lambda: None) -> None:
        super().__init__(backend)
        self._at, self._action, self._lock = at, action, threading.Lock()
        self.calls = 0

    def before(self, method: str, key: str) -> None:
        with self._lock:  # a publisher uploads in several threads
            self.calls += 1
            mine = self.calls == self._at
        if mine:
            self._action()


class Stepped(Generic[T]):
    """Work on a backend, in a thread of its own, that can be held right before one of its calls.

    Args:
        backend: handed to `work`, wrapped.
        work: what runs.
        at: the call to be held at, from 1.
    """

    def __init__(self, backend: Backend, work: Callable[[Backend], T], at: int) -> None:
        self._held, self._go = threading.Event(), threading.Event()
        self.reached = False
        self._pool = ThreadPoolExecutor(1)
        self._flight: Future[T] = self._pool.submit(work, Interrupted(backend, at, self._hold))
        self._flight.add_done_callback(lambda _: self._held.set())
        assert self._held.wait(60)

    def finish(self) -> T:
        """Lets it go on to its end."""
        self._go.set()
        try:
            return self._flight.result(60)
        finally:
            self._pool.shutdown()

    def _hold(self) -> None:
        self.reached = True
        self._held.set()
        self._go.wait(60)
