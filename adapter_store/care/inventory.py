"""What a walk through a store met, in a temporary database on disk: the size of a store does not decide how much memory its care
takes (about 300 bytes of disk an object).

Owns the two tables, objects and references, and the questions that care asks of them. Does not own what the answers mean. To be
used from one thread.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from adapter_store.backends.protocol import Entry
from adapter_store.care import keys
from adapter_store.care.keys import Key, Kind
from adapter_store.manifest import BlobRef

_BATCH = 1000  # rows written, or read, at once
_SCHEMA = """
CREATE TABLE objects (
    key TEXT PRIMARY KEY, kind TEXT, tenant TEXT, adapter TEXT, name TEXT, log TEXT, number INTEGER, size INTEGER, modified REAL
) WITHOUT ROWID;
CREATE INDEX by_kind ON objects (kind, name, tenant, adapter);
CREATE INDEX by_log ON objects (log, number);
CREATE TABLE refs (tenant TEXT, digest TEXT, size INTEGER, manifest TEXT, PRIMARY KEY (tenant, digest, manifest)) WITHOUT ROWID;
"""


class Found(NamedTuple):
    """An object as the walk met it."""

    key: Key
    size: int
    modified: datetime


def recognised(entries: Iterable[Entry]) -> Iterator[Found]:
    """Yields what a walk yields, with the keys read."""
    return (Found(keys.parse(entry.key), entry.size, entry.modified) for entry in entries)


class Log(NamedTuple):
    """A numbered log as the walk met it."""

    newest: Found
    records: int
    """Objects that are records by their names."""
    first: int
    """Lowest number."""
    last: int
    """Highest number."""


class Inventory:
    """Objects and references. A context manager: the database is gone when it ends."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("")  # a private file of SQLite's own, removed by the system whatever happens
        self._base.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def add(self, entries: Iterable[Entry]) -> Iterator[Found]:
        """Takes in what a walk yields, and yields it on."""
        left = recognised(entries)
        while batch := list(islice(left, _BATCH)):
            self.keep(batch)
            yield from batch

    def keep(self, found: Iterable[Found]) -> None:
        """Takes objects in."""
        self._base.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, found))

    def refer(self, tenant: str, manifest: str, blobs: Iterable[BlobRef]) -> None:
        """Notes that a manifest names blobs."""
        rows = ((tenant, blob.sha256, blob.size, manifest) for blob in blobs)
        self._base.executemany("INSERT OR REPLACE INTO refs VALUES (?, ?, ?, ?)", rows)

    def forget(self, key: str) -> None:
        """Notes that an object is gone, and with it what it names."""
        self._base.execute("DELETE FROM objects WHERE key = ?", (key,))
        self._base.execute("DELETE FROM refs WHERE manifest = ?", (key,))

    def has(self, key: str) -> bool:
        """Whether the walk met an object."""
        return bool(self._base.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone())

    def size(self, key: str) -> int | None:
        """Returns the size of an object that the walk met, None when it met none."""
        row = self._base.execute("SELECT size FROM objects WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else None

    def has_version(self, version: str) -> bool:
        """Whether any tenant has a version of that digest."""
        query = "SELECT 1 FROM objects WHERE kind = ? AND name = ?"
        return bool(self._base.execute(query, (Kind.VERSION, version)).fetchone())

    def count(self, *kinds: Kind) -> int:
        """Returns how many objects of some kinds there are; of all without any."""
        where, values = _where(kinds)
        return int(self._base.execute(f"SELECT count(*) FROM objects {where}", values).fetchone()[0])

    def objects(self, *kinds: Kind) -> Iterator[Found]:
        """Yields objects of some kinds in key order; reads as it goes, and what is forgotten meanwhile may still come."""
        where, values = _where(kinds)
        return self._found(f"SELECT key, size, modified FROM objects {where} ORDER BY key", values)

    def logs(self, kind: Kind) -> Iterator[Log]:
        """Yields the logs of a kind in key order."""
        query = """
            SELECT log, count(number), min(number), max(number) FROM objects
            WHERE kind = ? AND number IS NOT NULL GROUP BY log ORDER BY log"""
        for log, records, first, last in self._rows(query, (kind,)):
            newest = next(
                self._found("SELECT key, size, modified FROM objects WHERE log = ? AND number = ?", (log, last))
            )
            yield Log(newest, records, first, last)

    def newest(self, log: str) -> Found | None:
        """Returns the newest record of the log with a prefix; None when it has none."""
        query = (
            "SELECT key, size, modified FROM objects WHERE log = ? AND number IS NOT NULL ORDER BY number DESC LIMIT 1"
        )
        return next(self._found(query, (log,)), None)

    def tenants_without(self, kind: Kind) -> Iterator[str]:
        """Yields tenants that have objects, but none of a kind."""
        query = """
            SELECT tenant FROM objects WHERE tenant != '' EXCEPT SELECT tenant FROM objects WHERE kind = ? ORDER BY tenant"""
        return (tenant for (tenant,) in self._rows(query, (kind,)))

    def bytes(self, kind: Kind) -> int:
        """Returns the size of all objects of a kind."""
        return int(self._base.execute("SELECT total(size) FROM objects WHERE kind = ?", (kind,)).fetchone()[0])

    def records(self, log: Log) -> Iterator[Found]:
        """Yields a log's records, newest first."""
        return self._found("SELECT key, size, modified FROM objects WHERE log = ? ORDER BY key", (log.newest.key.log,))

    def signatures(self, tenant: str, adapter: str, version: str) -> tuple[str, ...]:
        """Returns the keys of a version's signatures."""
        query = "SELECT key FROM objects WHERE kind = ? AND tenant = ? AND adapter = ? AND name = ? ORDER BY key"
        return tuple(key for (key,) in self._rows(query, (Kind.SIGNATURE, tenant, adapter, version)))

    def orphans(self) -> Iterator[Found]:
        """Yields blobs that nothing refers to."""
        query = """
            SELECT key, size, modified FROM objects WHERE kind = ?
            AND NOT EXISTS (SELECT 1 FROM refs WHERE refs.tenant = objects.tenant AND refs.digest = objects.name)
            ORDER BY key"""
        return self._found(query, (Kind.BLOB,))

    def is_referred(self, tenant: str, digest: str) -> bool:
        """Whether a manifest names a blob."""
        return bool(
            self._base.execute("SELECT 1 FROM refs WHERE tenant = ? AND digest = ?", (tenant, digest)).fetchone()
        )

    def unmet(self) -> Iterator[tuple[str, BlobRef, str, int | None]]:
        """Yields references that no blob of that size meets: tenant, blob, manifest's key, the size found (None: no blob)."""
        query = """
            SELECT refs.tenant, refs.digest, refs.size, refs.manifest, objects.size FROM refs LEFT JOIN objects
            ON objects.kind = ? AND objects.tenant = refs.tenant AND objects.name = refs.digest
            WHERE objects.size IS NOT refs.size ORDER BY refs.tenant, refs.digest"""
        for tenant, digest, size, manifest, found in self._rows(query, (Kind.BLOB,)):
            yield tenant, BlobRef(digest, size), manifest, found

    def _found(self, query: str, values: tuple[object, ...]) -> Iterator[Found]:
        for key, size, modified in self._rows(query, values):
            yield Found(keys.parse(key), size, datetime.fromtimestamp(modified, UTC))

    def _rows(self, query: str, values: tuple[object, ...]) -> Iterator[tuple[Any, ...]]:
        cursor = self._base.execute(query, values)
        while rows := cursor.fetchmany(_BATCH):
            yield from rows


def _where(kinds: tuple[Kind, ...]) -> tuple[str, tuple[object, ...]]:
    return (f"WHERE kind IN ({', '.join('?' * len(kinds))})", kinds) if kinds else ("", ())


def _row(found: Found) -> tuple[object, ...]:
    key = found.key
    log = key.log if key.kind in keys.LOGS else ""
    modified = found.modified.timestamp()
    return key.text, key.kind, key.tenant, key.adapter, key.name, log, key.number, found.size, modified
