"""Pages of a listing: opaque tokens that stay right while things are added.

Owns page sizes and tokens. A token holds the last entry's name, not a count, so that an insertion shifts nothing.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from adapter_store.backends.protocol import Backend
from adapter_store.errors import InvalidName

DEFAULT_SIZE = 100
MAX_SIZE = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list."""

    items: list[T]
    next_page_token: str
    """Empty on the last page."""


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
    if page_size < 0:
        raise InvalidName(f"page_size {page_size} is negative; use 0 for the default")
    size = min(page_size or DEFAULT_SIZE, MAX_SIZE)
    # one more than asked for tells whether there is a next page
    names = backend.children(prefix, after=_decode(prefix, page_token), limit=size + 1)
    items = [item for name in names[:size] if (item := load(name)) is not None]
    return Page(items, _encode(prefix, names[size - 1]) if len(names) > size else "")


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
        raise InvalidName("page_token is not from a page of this list; start again without one")
    return name
