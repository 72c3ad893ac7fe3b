"""Pages of a listing: opaque tokens that stay right while things are added.

Owns page sizes and tokens. A token holds the last entry's name, not a count, so that an insertion shifts nothing.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from adapter_store.backends.protocol import Backend
from adapter_store.errors import InvalidName

DEFAULT_SIZE = 100
MAX_SIZE = 1000
_LOADERS = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list."""

    items: list[T]
    next_page_token: str
    """Empty on the last page."""

    def is_empty_list(self, page_token: str) -> bool:
        """Whether the list has nothing at all; `page_token` is the one that this page was asked with."""
        return not (self.items or self.next_page_token or page_token)


def read_page(
    backend: Backend, prefix: str, page_size: int, page_token: str, load: Callable[[str], T | None]
) -> Page[T]:
    """Lists the children of a prefix.

    Args:
        backend: the object store.
        prefix: what to list.
        page_size: most items; 0 for the default of 100, above 1000 counts as 1000 (AIP-158).
        page_token: empty, or from the page before.
        load: makes an item of a child's name (folders end with '/'); None leaves the child out.

    Raises:
        InvalidName: a negative size, or a token that is not from this list.
    """
    size = _size(page_size)
    # one more than asked for tells whether there is a next page
    names = backend.children(prefix, after=_decode(prefix, page_token), limit=size + 1)
    # An item takes a few requests, and an object store has its round trip for each: in turn, a page would take seconds.
    with ThreadPoolExecutor(_LOADERS, thread_name_prefix="store-page") as pool:
        items = [item for item in pool.map(load, names[:size]) if item is not None]
    return Page(items, _encode(prefix, names[size - 1]) if len(names) > size else "")


def slice_page(scope: str, items: Sequence[T], key: Callable[[T], str], page_size: int, page_token: str) -> Page[T]:
    """Like `read_page`, of a list that only grows at its end.

    Args:
        scope: names the list in its tokens.
        items: all of it.
        key: what names an item; unique.
        page_size, page_token: as in `read_page`.
    """
    size, after = _size(page_size), _decode(scope, page_token)
    start = next((number for number, item in enumerate(items, 1) if key(item) == after), 0) if after else 0
    if after and not start:
        raise _foreign()
    page = list(items[start : start + size])
    return Page(page, _encode(scope, key(page[-1])) if start + size < len(items) else "")


def _size(page_size: int) -> int:
    if page_size < 0:
        raise InvalidName(f"page_size {page_size} is negative; use 0 for the default")
    return min(page_size or DEFAULT_SIZE, MAX_SIZE)


def _encode(prefix: str, name: str) -> str:
    return base64.urlsafe_b64encode(f"{prefix}|{name}".encode()).decode()


def _decode(prefix: str, token: str) -> str:
    if not token:
        return ""
    try:
        scope, _, name = (
            base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode("ascii").partition("|")
        )
    except (ValueError, binascii.Error):
        scope, name = "", ""
    # A token of another list would start at an arbitrary place, and one made by hand could carry any text.
    if scope != prefix or not name or "/" in name[:-1]:
        raise _foreign()
    return name


def _foreign() -> InvalidName:
    return InvalidName("page_token is not from a page of this list; start again without one")
