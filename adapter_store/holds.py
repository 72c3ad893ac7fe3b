"""Holds: data sets that running jobs still need, so that garbage collection leaves them alone wherever it runs.

Owns the log of each job. A trainer holds when it admits a job and releases when the job has ended; both may be repeated. Does not
own when that is (the trainer) nor what a hold protects from (`adapter_store.care`).

Garbage collection removes the log of a job that ended long ago, and numbers then begin anew: a slow collector could take a new record
for the one that it had listed. Whoever holds therefore looks for notices of removal behind the record, as a publisher does
(`adapter_store.sweeps`).
"""

import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.errors import StoreUnavailable, VersionConflict
from adapter_store.manifest import HoldRecord
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import MAX_SIZE
from adapter_store.sweeps import LIFE, Sweeps

WAIT_S = 30.0
"""How long a holder waits for a collector that is removing what the job held before."""
_PAUSE_S = 0.2
_TRIES = 20


class Holds:
    """Holds of all tenants' jobs.

    Args:
        backend: the object store.
        wait_s: see WAIT_S.
    """

    def __init__(self, backend: Backend, wait_s: float = WAIT_S) -> None:
        self._backend, self._wait_s = backend, wait_s
        self._sweeps = Sweeps(backend)

    def hold(self, tenant: str, job: str, datasets: Collection[str], *, by: str) -> HoldRecord:
        """Keeps a job's data sets until `release`. Nothing is written when it holds them already.

        Raises:
            StoreUnavailable: the store is away, or what the job held long ago was being removed for longer than `wait_s`.
        """
        deadline = time.monotonic() + self._wait_s
        while True:
            record = self._append(tenant, job, "held", tuple(sorted(datasets)), by)
            if self._is_settled(tenant, job, record):
                return record
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"garbage collection is removing what job {job} held before; try again in a minute "
                    f"({LIFE.total_seconds() / 60:g} if the collector was killed)"
                )
            time.sleep(_PAUSE_S)

    def release(self, tenant: str, job: str, *, by: str) -> HoldRecord | None:
        """Lets go of what a job held; None when it never held anything."""
        current = self.current(tenant, job)
        return current and self._append(tenant, job, "released", current.datasets, by)

    def current(self, tenant: str, job: str) -> HoldRecord | None:
        """Returns a job's newest record, None when it has none."""
        for _ in range(_TRIES):
            with suppress(ObjectMissing):  # garbage collection removes the log of a job that ended long ago
                return self._log(tenant, job).current()
        raise StoreUnavailable(f"the log of what job {job} holds kept vanishing while it was read; try again")

    def held(self, tenant: str) -> Iterator[HoldRecord]:
        """Yields the holds of a tenant's jobs that are not released."""
        after = ""
        while names := self._backend.children(layout.holds(tenant), after=after, limit=MAX_SIZE):
            for name in names:
                record = self.current(tenant, name.removesuffix("/"))
                if record and record.state == "held":
                    yield record
            after = names[-1]

    def _append(self, tenant: str, job: str, state: str, datasets: tuple[str, ...], by: str) -> HoldRecord:
        log = self._log(tenant, job)
        for _ in range(_TRIES):
            current = self.current(tenant, job)
            if current and (current.state, current.datasets) == (state, datasets):
                return current
            number = current.number + 1 if current else 1
            fixed = {"number": number, "tenant": tenant, "job": job, "state": state}
            record = HoldRecord.model_validate(fixed | {"datasets": datasets, "at": datetime.now(UTC), "by": by})
            try:
                return log.append(record)
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def _is_settled(self, tenant: str, job: str, record: HoldRecord) -> bool:
        """Whether a record is there to stay. The notices come first: see `adapter_store.sweeps`."""
        notices = self._sweeps.standing(tenant)
        key = self._log(tenant, job).key(record.number)
        entry = self._backend.entry(key)
        return entry is not None and not self._sweeps.any_concern(notices, [key], entry.modified)

    def _log(self, tenant: str, job: str) -> NumberedLog[HoldRecord]:
        return NumberedLog(self._backend, layout.hold_log(tenant, job), HoldRecord, f"holds of job {job}")
