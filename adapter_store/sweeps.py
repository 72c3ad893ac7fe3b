"""Notices of what is about to be removed: how garbage collection and publishers keep out of each other's way.

Owns the notices, how long they hold, and the removal under one. Does not own what may be removed (`adapter_store.care`) nor
what a publisher does about it (`adapter_store.publishing`).

A store takes deletions without conditions only, so between a collector's last look at an object and its deletion somebody
may come to rely on it. Both sides therefore write before they look:

- The collector writes a notice that names the keys, *then* looks whether each is still old and unused, removes what is, and
  withdraws the notice.
- The publisher writes every blob anew, which makes it young, *then* looks for notices, then that its blobs are there, and only
  then creates the manifest.

If the notice was written before the publisher looked for one, it either still stands, and the publisher waits and writes its
blobs again, or it was withdrawn: then all that it announced has happened, and the publisher sees whether its blobs are there. If
the notice was written after that look, the collector looks later still, finds the blobs young, and leaves them.

A collector that was killed leaves its notice. It counts for `LIFE` only, by the store's own clock; a living collector stops
removing under a notice long before that (`BUDGET_S`), the rest being for requests that are under way. What this cannot cover is a
collector that is suspended between its last look and the deletion for longer than `LIFE`.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, Entry, ObjectMissing
from adapter_store.documents import Document
from adapter_store.errors import CorruptRecord, StoreError, StoreUnavailable

LIFE = timedelta(minutes=10)
"""Age at which a notice binds nobody any more."""
BUDGET_S = 60.0
"""Seconds after which nothing more is removed under a notice; the time to LIFE is for the last request's own repeats."""
_SURE_S = 5.0  # an answer that took longer may be one to a repeat, with the first request still on its way


class SweepNotice(Document):
    """Keys that one collector is about to remove."""

    tenant: str
    keys: tuple[str, ...]
    at: datetime


class BudgetSpent(Exception):
    """A notice is too old to remove more under it; a new one has to be written, and everything looked at again."""


class Sweep:
    """What may be removed under one notice. Safe to use from several threads.

    Args:
        backend: the object store.
        notice: the notice's key.
        keys: what it names.
        clock: seconds, monotonic.
    """

    def __init__(self, backend: Backend, notice: str, keys: Collection[str], clock: Callable[[], float]) -> None:
        self._backend, self._notice, self._keys, self._clock = backend, notice, frozenset(keys), clock
        self._began = clock()
        self._doubt = threading.Event()

    def remove(self, key: str) -> None:
        """Deletes an object that the notice names.

        Raises:
            BudgetSpent: nothing was done.
            StoreUnavailable: it may be gone, now or a little later.
        """
        if key not in self._keys:
            raise ValueError(f"{key} was not announced")
        start = self._clock()
        if start - self._began > BUDGET_S:
            raise BudgetSpent
        sure = False
        try:
            self._backend.delete(key)
            sure = self._clock() - start <= _SURE_S
        finally:
            if not sure:
                self._doubt.set()

    def withdraw(self) -> None:
        """Takes the notice back, unless a deletion under it may still be on its way: then it ends by its age."""
        if not self._doubt.is_set():
            self._backend.delete(self._notice)


class Sweeps:
    """Notices of all tenants.

    Args:
        backend: the object store.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._clock = backend, clock

    @contextmanager
    def announced(self, tenant: str, keys: Collection[str], now: datetime) -> Iterator[Sweep]:
        """Writes a notice, and takes it back in the end. Only what is looked at inside may be removed.

        Args:
            tenant: whose objects.
            keys: of the objects.
            now: the store's time, for people who look.
        """
        key = layout.new_sweep(tenant)
        sweep = Sweep(self._backend, key, keys, self._clock)  # its budget runs from before the notice is written
        notice = SweepNotice(tenant=tenant, keys=tuple(sorted(keys)), at=now)
        if not self._backend.create(key, documents.encode(notice)):
            raise StoreUnavailable(f"{key} is there already, though its name is random; try again")
        try:
            yield sweep
        except Exception:
            with suppress(StoreError):  # the first failure is the one to tell; the notice ends by its age
                sweep.withdraw()
            raise
        sweep.withdraw()

    def standing(self, tenant: str) -> tuple[Entry, ...]:
        """Returns the notices there are now, dead ones included; usually none, for one listing."""
        return tuple(self._backend.walk(layout.sweeps(tenant)))

    def any_concern(self, notices: Iterable[Entry], keys: Collection[str], now: datetime) -> bool:
        """Whether one of the notices counts and names one of the keys, or has been withdrawn since it was listed.

        Args:
            notices: from `standing`.
            keys: of objects that their publisher had written before it called `standing`.
            now: the store's time at which it wrote them.
        """
        return any(self._concerns(notice, keys) for notice in notices if now - notice.modified <= LIFE)

    def _concerns(self, notice: Entry, keys: Collection[str]) -> bool:
        with suppress(ObjectMissing, CorruptRecord):  # what cannot be read may name anything
            named = documents.load(self._backend, notice.key, SweepNotice, "a notice of removal").keys
            return not set(named).isdisjoint(keys)
        return True
