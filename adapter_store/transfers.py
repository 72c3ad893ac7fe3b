"""Large objects in and out of files: ranges in parallel, broken ranges taken up again, the digest on the way.

Owns how many requests a transfer makes and what happens when one of them breaks. Does not own what the digest should be
(`blobs`). Memory: the pieces in flight, 1.5 MiB.

One connection first: a thread does nothing but receive, so that the server never waits, while the caller's hashes and
writes. When that turns out to be slow, the rest comes in ranges over several connections, and is hashed from the page
cache in order. Measured on loopback, 2 cores: there, more connections only take cores from the server.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from queue import SimpleQueue

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreUnavailable

Progress = Callable[[int], None]
"""Called with the bytes of each piece, from the transfer's threads."""

PART_BYTES = 8 << 20
"""Of a range, where several are read at once."""
JUDGED_BYTES = 4 << 20
"""After these the first connection's speed is looked at."""
FAST_BYTES_S = 150e6
"""A connection this fast is left alone; over a distance each brings what its round trips allow, and several add up."""
_TRIES = 4  # of a range; each goes on behind the bytes that the one before it brought
_PIECE = 256 << 10
_BUFFERS = 6  # of the first connection, one piece each; fresh memory is dear, and more would bring nothing

log = structlog.get_logger(__name__)


def no_progress(_: int) -> None:
    """For callers that show none."""


def download(backend: Backend, key: str, size: int, descriptor: int, progress: Progress = no_progress) -> str:
    """Writes an object's bytes to an open file.

    Args:
        backend: the object store.
        key: what to read.
        size: bytes that the object should have.
        descriptor: of an empty file, open for reading and writing.
        progress: of the bytes written.

    Returns:
        The sha256 in hex of what was written; of too little or too much when the object has another size.

    Raises:
        ObjectMissing: no such object.
        StoreUnavailable: it kept breaking off.
    """
    seen = hashlib.sha256()
    # One byte more than expected: an object that is too long must not look right.
    first = _FirstConnection(_Transfer(backend, key, descriptor, progress), _Range(0, size + 1), seen)
    rest = first.run()
    if rest.length:
        _in_parallel(first.transfer, rest, seen)
    return seen.hexdigest()


@dataclass(slots=True)
class _Range:
    """A part of the object on its way into the same part of the file."""

    start: int
    length: int
    done: int = 0
    """Bytes written so far."""


@dataclass(frozen=True, slots=True)
class _Transfer:
    """From where to where."""

    backend: Backend
    key: str
    descriptor: int
    progress: Progress

    def pieces(self, part: _Range, take: Callable[[], memoryview]) -> Generator[memoryview]:
        """Reads what is left of a range, into buffers that `take` gives."""
        return self.backend.read_into(self.key, take, offset=part.start + part.done, length=part.length - part.done)

    def write(self, part: _Range, piece: memoryview) -> None:
        while piece:
            written = os.pwrite(self.descriptor, piece, part.start + part.done)
            piece = piece[written:]
            part.done += written
            self.progress(written)


class _FirstConnection:
    """Brings the whole object, or as much of it as shows that one connection is slow."""

    def __init__(self, transfer: _Transfer, whole: _Range, seen: "hashlib._Hash") -> None:
        self.transfer, self._whole, self._seen = transfer, whole, seen
        self._first: tuple[float, int] | None = None  # when its first piece was here, and the bytes until then
        self._judged = self._slow = False

    def run(self) -> _Range:
        """Returns what is left for others; of length 0 when all is here."""
        with ThreadPoolExecutor(1, thread_name_prefix="store-read") as pool:
            _again(self._whole)(self._once, pool)
        left = self._whole.length - self._whole.done if self._slow else 0
        return _Range(self._whole.done, left)

    def _once(self, pool: ThreadPoolExecutor) -> None:
        free: SimpleQueue[memoryview | None] = SimpleQueue()
        filled: SimpleQueue[memoryview | None] = SimpleQueue()
        for _ in range(min(_BUFFERS, 1 + (self._whole.length - self._whole.done) // _PIECE)):
            free.put(memoryview(bytearray(_PIECE)))
        receiving = pool.submit(self._receive, _Range(**asdict(self._whole)), free, filled)
        try:
            while (piece := filled.get()) is not None:
                self._seen.update(piece)
                self.transfer.write(self._whole, piece)
                if self._is_slow():
                    break
                free.put(memoryview(piece.obj))
        finally:
            free.put(None)
        receiving.result()

    def _receive(
        self, part: _Range, free: "SimpleQueue[memoryview | None]", filled: "SimpleQueue[memoryview | None]"
    ) -> None:
        def take() -> memoryview:
            if (buffer := free.get()) is None:
                raise _Unwanted
            return buffer

        try:
            with suppress(_Unwanted):
                for piece in self.transfer.pieces(part, take):
                    filled.put(piece)
        finally:
            filled.put(None)

    def _is_slow(self) -> bool:
        """Judged once, from the first piece on: the wait for it is the server's, and further connections would wait as long."""
        part, now = self._whole, time.monotonic()
        if self._first is None:
            self._first = now, part.done
        began, before = self._first
        if not self._judged and part.done >= JUDGED_BYTES and self.transfer.backend.parallel_reads > 1:
            self._judged = True
            speed = (part.done - before) / max(1e-9, now - began)
            self._slow = speed < FAST_BYTES_S and part.length - part.done > PART_BYTES
        return self._slow


class _Unwanted(Exception):
    """Nobody reads on."""


def _in_parallel(transfer: _Transfer, rest: _Range, seen: "hashlib._Hash") -> None:
    """Copies what is left in ranges at once, and hashes them in order as they are done."""
    end = rest.start + rest.length
    parts = [_Range(at, min(PART_BYTES, end - at)) for at in range(rest.start, end, PART_BYTES)]
    stop = threading.Event()
    buffer = memoryview(bytearray(_PIECE))

    def bring(part: _Range) -> None:
        own = memoryview(bytearray(_PIECE))
        with closing(transfer.pieces(part, lambda: own)) as pieces:
            for piece in pieces:
                transfer.write(part, piece)
                if stop.is_set():
                    return

    with ThreadPoolExecutor(transfer.backend.parallel_reads, thread_name_prefix="store-read") as pool:
        flights = [pool.submit(_again(part), bring, part) for part in parts]
        try:
            for part, flight in zip(parts, flights, strict=True):
                flight.result()
                position = 0
                while position < part.done:
                    count = os.preadv(transfer.descriptor, [buffer[: part.done - position]], part.start + position)
                    seen.update(buffer[:count])
                    position += count
        finally:
            stop.set()  # else an error would wait for megabytes that nobody wants any more
            for flight in flights:
                flight.cancel()


def _again(part: _Range) -> Retrying:
    """How often a range is taken up again, behind the bytes that are there."""
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_attempt(_TRIES),
        wait=wait_exponential_jitter(multiplier=0.1, max=2),
        before_sleep=lambda state: log.info("a range broke off", tries=state.attempt_number, done=part.done),
        reraise=True,
    )
