"""What the store needs of an object store.

Owns the protocol and its promises; `tests/contract` holds every implementation to them. Does not own keys (layout),
digests (blobs) or numbering (numbered_log).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class ObjectMissing(Exception):
    """No object under that key. Internal: the callers know what was meant and raise NotFound or CorruptBlob."""


class Backend(Protocol):
    """A flat map from keys to bytes, safe to use from several threads.

    Keys are ASCII segments `[A-Za-z0-9._-]+` joined by '/'. Every method raises StoreUnavailable when the store cannot
    be reached and StoreMisconfigured when an operator must act.
    """

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

    def size(self, key: str) -> int | None:
        """Returns the object's size in bytes, None when there is none."""
        ...

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yields the object's bytes, or a range of them, in pieces of at most 1 MiB.

        Raises:
            ObjectMissing: at the first piece, when there is no such object.
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

    def delete(self, key: str) -> None:
        """Removes an object if it is there. For the probe's own objects and for garbage collection only."""
        ...
