"""One run of garbage collection: what all its parts share.

The time is the store's own, read once at the start: whatever was written since then counts as young, so a run may take as long as
it takes.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from adapter_store.backends.protocol import Backend, Entry
from adapter_store.care.report import Finding, Report, Severity
from adapter_store.care.tally import Tally
from adapter_store.publishing import LIMIT
from adapter_store.sweeps import Sweeps

GRACE = timedelta(hours=24)
"""How long what nobody names is kept when nothing else is asked for."""
LEAST_GRACE = 2 * LIMIT
"""A publisher may take LIMIT from its first blob to its manifest; the rest is for clocks that round and requests that linger."""


@dataclass(frozen=True)
class Round:
    """What a run may do, and what it has done."""

    backend: Backend
    sweeps: Sweeps
    report: Report
    now: datetime
    """The store's time at the start."""
    grace: timedelta
    dry_run: bool
    parallel: int
    removed: Tally = field(default_factory=Tally)
    kept: Tally = field(default_factory=Tally)
    """What could be removed but for the reason it is counted under."""
    left_alone: list[Finding] = field(default_factory=list)
    """What stood in the way of the run."""

    @property
    def young_since(self) -> datetime:
        """Whatever was written at this moment or later is not touched."""
        return self.now - self.grace

    def is_young(self, entry: Entry) -> bool:
        """Whether the grace time protects an object."""
        return entry.modified >= self.young_since

    def leave_alone(self, key: str, what: str, todo: str) -> None:
        """Notes that something was not looked after, and says so."""
        finding = Finding(Severity.WARNING, key, what, todo)
        self.left_alone.append(finding)
        self.report.finding(finding)
