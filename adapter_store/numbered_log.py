"""Append-only logs on create-if-absent: how anything mutable is kept.

Owns numbering: whoever creates record n+1 wins. Does not own what a record says. A record's key starts with the
complement of its number, so that the newest comes first in a listing: reading the current record costs one list call
of one entry and one get, however long the log is.
"""

import re
from typing import Generic, TypeVar

from adapter_store import documents
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.documents import Document
from adapter_store.errors import CorruptRecord, VersionConflict
from adapter_store.paging import Page, read_page

_LAST = 9_999_999_999
_NAME = re.compile(r"(\d{10})-([1-9]\d{0,9})\.json", re.ASCII)


class Numbered(Document):
    """Base of a log's records."""

    number: int
    """Position in its log, from 1 without gaps."""


R = TypeVar("R", bound=Numbered)


class NumberedLog(Generic[R]):
    """One log under one prefix.

    Args:
        backend: where it lies.
        prefix: the log's own, ending with '/'.
        kind: model of the records.
        what: names the log in errors, for instance "alias prod of acme/greeter".
    """

    def __init__(self, backend: Backend, prefix: str, kind: type[R], what: str) -> None:
        self._backend, self._prefix, self._kind, self._what = backend, prefix, kind, what

    def current(self) -> R | None:
        """Returns the newest record, None when the log has none."""
        newest = self._backend.children(self._prefix, limit=1)
        return self._load(newest[0]) if newest else None

    def at(self, number: int) -> R:
        """Returns the record of a number that the log is known to have.

        Raises:
            CorruptRecord: it is gone.
        """
        try:
            return self._load(_name(number))
        except ObjectMissing:
            raise CorruptRecord(f"record {number} of {self._what} is gone; restore it from a backup") from None

    def key(self, number: int) -> str:
        """Returns the key of the record of a number."""
        return self._prefix + _name(number)

    def append(self, record: R) -> R:
        """Stores the record that follows the one its writer has read (`number` = that one's + 1).

        Raises:
            VersionConflict: somebody else stored that number first; carries the number that is current now.
        """
        if not 1 <= record.number <= _LAST:
            raise ValueError(f"a record's number is between 1 and {_LAST}")
        if self._backend.create(self.key(record.number), documents.encode(record)):
            return record
        current = self.current()
        number = current.number if current else 0
        raise VersionConflict(
            f"{self._what} was changed by somebody else: its current number is {number}; read it and try again", number
        )

    def history(self, *, limit: int, before: int | None = None) -> list[R]:
        """Returns records, newest first, from just below the number `before` (None: from the newest)."""
        after = "" if before is None else _name(before)
        return [self._load(name) for name in self._backend.children(self._prefix, after=after, limit=limit)]

    def page(self, page_size: int, page_token: str) -> Page[R]:
        """Returns records, newest first. New ones come before the first page, so tokens stay right."""
        return read_page(self._backend, self._prefix, page_size, page_token, self._load)

    def _load(self, name: str) -> R:
        number = record_number(name)
        if number is None:
            raise CorruptRecord(f"the log of {self._what} holds a foreign object {name!r}; remove it")
        record = documents.load(self._backend, self._prefix + name, self._kind, f"record {number} of {self._what}")
        if record.number != number:
            raise CorruptRecord(f"record {number} of {self._what} says that it is number {record.number}")
        return record


def record_number(name: str) -> int | None:
    """Returns the number of the record with that name in its log, None when no record is named so."""
    match = _NAME.fullmatch(name)
    return int(match[2]) if match and name == _name(int(match[2])) else None


def _name(number: int) -> str:
    return f"{_LAST - number:010d}-{number}.json"
