"""What the store needs of an object store.

Owns the protocol and its promises; `tests/contract` holds every implementation to them. Does not own keys (layout),
digests (blobs) or numbering (numbered_log).
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


class ObjectMissing(Exception):
    """No object under that key. Internal: the callers know what was meant and raise NotFound or CorruptBlob."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    modified: datetime
    """When its bytes were written, by the store's own clock (UTC); what a clock on another machine says plays no part.
    Of an upload in parts it may be the moment at which that began. Stores round it to seconds as they like."""


class Backend(Protocol):
    """A flat map from keys to bytes, safe to use from several threads.

    Keys are ASCII segments `[A-Za-z0-9._-]+` joined by '/'. Every method raises StoreUnavailable when the store cannot
    be reached and StoreMisconfigured when an operator must act.
    """

    @property
    def parallel_reads(self) -> int:
        """How many ranges of one object are worth reading at once."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Writes a small object if the key is free, atomically and durably.

        The only write that anything but a content-addressed blob may use. A repeat whose first answer was lost
        recognises its own object.

        Returns:
            True when this call's bytes are stored, False when somebody else's are.
        """
        ...

    def put_file(self, key: str, file: Path) -> None:
        """Stores a file's bytes under a key derived from them, atomically and durably; replaces what is there.

        Only for content-addressed keys, where a replacement has the same bytes or heals damaged ones.
        """
        ...

    def entry(self, key: str) -> Entry | None:
        """Returns the object's size and age without its bytes, None when there is none."""
        ...

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yields the object's bytes, or a range of them, in pieces of at most 1 MiB.

        Raises:
            ObjectMissing: at the first piece, when there is no such object.
        """
        ...

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        """Like `read`, without a new object per piece: making and freeing a megabyte a hundred times takes its time.

        Args:
            key: what to read.
            take: gives the buffer for the next piece; what it raises comes out of the generator.
            offset: first byte.
            length: bytes; None: to the end.

        Yields:
            The filled front of each buffer.
        """
        ...

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        """Lists the next level below a prefix that ends with '/', in the order of their UTF-8 bytes.

        Args:
            prefix: where to look.
            after: an entry as returned before; the list goes on behind it, whatever was added meanwhile.
            limit: most entries to return.

        Returns:
            Names without the prefix; one that has objects below it ends with '/'. Never a folder that holds no object.
        """
        ...

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Yields every object below a prefix, on all levels, in the order of the keys' UTF-8 bytes; lists as it goes.

        Foreign objects are in it too, so a key may hold characters that no other method takes.

        Args:
            prefix: where to look; ends with '/'.
            after: leaves out keys up to this one.
        """
        ...

    def delete(self, key: str) -> None:
        """Removes an object if it is there. For the probe's own objects and for garbage collection only."""
        ...

    def unfinished(self) -> Iterator[Entry]:
        """Yields writes that were begun and have not ended: what a killed writer leaves, and what is being written now.

        Their keys are names for `discard` only; their size is 0 where the store does not tell it.
        """
        ...

    def discard(self, write: Entry) -> None:
        """Gives the space of an unfinished write back, if it is still there; its writer, should it live, fails."""
        ...
