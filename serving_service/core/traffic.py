"""What each tenant asked of this node in the last 1, 5 and 60 minutes, and what it got.

Owns which requests count as what, and the bound on memory: the tenants that came last, each with its slots. Does not own the
slots (`rolling`), nor Prometheus' metrics (`serving_service.observe.metrics`), which outlive the hour and leave tenants out.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from graftwork.errors import ErrorCode
from serving_service.core.observing import CallBegan, CallEnded, Produced, Seen, Stage, StageBegan, StageEnded
from serving_service.core.rolling import Latencies, Ring, Slot

MOST_TENANTS = 256
"""With rows of their own: about 150 KB each at the very most, if they send all the time."""
_RECENT_S, _MINUTE_S, _SLOTS = 5.0, 60.0, 60
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in seconds of `count` requests; all 0 without one."""

    count: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Window:
    """The last minutes.

    Attributes:
        minutes: 1, 5 or 60.
        seconds: that were really counted: a little more, for the slot that is filling, or less since the start.
        counts: see Slot.
        first_token, whole: their percentiles.
    """

    minutes: int
    seconds: float
    counts: Slot
    first_token: Latency
    whole: Latency


@dataclass(frozen=True, slots=True)
class Series:
    """60 slots, oldest first: what charts are drawn from. Each of `step` seconds, without the one that is filling."""

    step: float
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One tenant's traffic, or that of all.

    Attributes:
        tenant: empty for operators on the base.
        running: requests that hold a place now.
        waiting: those that wait for one.
        windows: 1, 5 and 60 minutes.
        recent, hour: 5 s and 60 s a slot; None unless asked for.
    """

    tenant: str
    running: int
    waiting: int
    windows: tuple[Window, ...]
    recent: Series | None = None
    hour: Series | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything an operator sees.

    Attributes:
        seconds: since counting began, at this service's start.
        total: of all tenants, those left out too.
        tenants: who sent something in the last hour, most tokens first.
        left_out: tenants that sent something in the last hour and for whose rows there was no room.
    """

    seconds: float
    total: Row
    tenants: tuple[Row, ...]
    left_out: bool


@dataclass(slots=True, eq=False)
class _Tally:
    """What is kept for one row."""

    running: int = 0
    waiting: int = 0
    last: float = 0.0
    recent: Ring = field(default_factory=lambda: Ring(_RECENT_S, _SLOTS))
    hour: Ring = field(default_factory=lambda: Ring(_MINUTE_S, _SLOTS))

    def slots(self, now: float) -> tuple[Slot, Slot]:
        """Those to count in."""
        return self.recent.now(now), self.hour.now(now)


@dataclass(slots=True)
class _Call:
    """A request under way, and where it is counted."""

    tally: _Tally
    waits: bool = False
    runs: bool = False


class Traffic:
    """Counts what it sees; an `Observer`.

    Args:
        clock: seconds, monotonic.
        most_tenants: with rows of their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_tenants: int = MOST_TENANTS) -> None:
        self._clock, self._most, self._began = clock, most_tenants, clock()
        self._total, self._tenants = _Tally(), OrderedDict[str, _Tally]()
        self._calls: dict[str, _Call] = {}
        self._left_out_at: float | None = None  # when the newest of those left out sent something

    def see(self, event: Seen) -> None:
        match event:
            case CallBegan():
                self._calls[event.call] = _Call(self._tally(event.tenant))
            case StageBegan(stage=Stage.QUEUE):
                self._move(self._calls[event.call], waits=True, runs=False)
            case StageEnded(stage=Stage.QUEUE):
                self._move(self._calls[event.call], waits=False, runs=not event.error)
            case Produced():
                self._produced(event)
            case CallEnded():
                self._ended(event)
            case _:
                pass

    async def report(self, *, series: bool = False) -> Report:
        """Adds everything up. Lets others run between two tenants, for it takes about a millisecond for each."""
        tenants = list[tuple[str, _Tally]]()
        for name, tally in self._tenants.items():
            if tally.running or tally.waiting or self._clock() - tally.last <= _HOUR_S:
                tenants.append((name, tally))
        rows = list[Row]()
        for name, tally in tenants:
            rows.append(self._row(name, tally, series=series))
            await asyncio.sleep(0)
        rows.sort(key=lambda row: (-_tokens(row), row.tenant))
        now = self._clock()
        left_out = self._left_out_at is not None and now - self._left_out_at <= _HOUR_S
        return Report(now - self._began, self._row("", self._total, series=series), tuple(rows), left_out)

    def of(self, tenant: str, *, series: bool = False) -> Row:
        """One tenant's row; all 0 for one that sent nothing."""
        return self._row(tenant, self._tenants.get(tenant) or _Tally(), series=series)

    @property
    def seconds(self) -> float:
        """Since counting began."""
        return self._clock() - self._began

    def _tally(self, tenant: str) -> _Tally:
        now = self._clock()
        found = self._tenants.get(tenant)
        if found is None:
            if len(self._tenants) >= self._most:
                self._forget()
            found = self._tenants[tenant] = _Tally()
        self._tenants.move_to_end(tenant)
        found.last = now
        return found

    def _forget(self) -> None:
        """Drops who has been quiet for longest, if possible of those with nothing under way."""
        quiet = (name for name, tally in self._tenants.items() if not (tally.running or tally.waiting))
        gone = self._tenants.pop(next(quiet, next(iter(self._tenants))))
        self._left_out_at = max(gone.last, self._left_out_at or 0.0)

    def _move(self, call: _Call, *, waits: bool, runs: bool) -> None:
        for tally in (call.tally, self._total):
            tally.waiting += waits - call.waits
            tally.running += runs - call.runs
        call.waits, call.runs = waits, runs

    def _produced(self, event: Produced) -> None:
        for slot in self._slots(self._calls[event.call].tally):
            slot.completion_tokens += event.tokens
            if event.since_arrival is not None:
                slot.first_token.take(event.since_arrival)

    def _ended(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call)
        self._move(call, waits=False, runs=False)
        call.tally.last = self._clock()
        for slot in self._slots(call.tally):
            slot.requests += 1
            slot.prompt_tokens += event.prompt_tokens
            if event.outcome == "ok":
                slot.answered += 1
                slot.whole.take(event.total_seconds)
            elif event.outcome == ErrorCode.CANCELLED.value:
                slot.cancelled += 1
            elif event.first_token_seconds is not None:
                slot.failed += 1
            else:
                slot.rejections[event.error] = slot.rejections.get(event.error, 0) + 1

    def _slots(self, tally: _Tally) -> tuple[Slot, ...]:
        now = self._clock()
        return (*tally.slots(now), *self._total.slots(now))

    def _row(self, tenant: str, tally: _Tally, *, series: bool) -> Row:
        now = self._clock()
        windows = tuple(
            self._window(minutes, ring, now)
            for minutes, ring in ((1, tally.recent), (5, tally.recent), (60, tally.hour))
        )
        row = tenant, tally.running, tally.waiting, windows
        return Row(*row, _series(tally.recent, now), _series(tally.hour, now)) if series else Row(*row)

    def _window(self, minutes: int, ring: Ring, now: float) -> Window:
        slots = int(minutes * _MINUTE_S / ring.width)
        counts = ring.sum(now, slots)
        seconds = min(ring.seconds(now, slots), now - self._began)
        return Window(minutes, seconds, counts, _latency(counts.first_token), _latency(counts.whole))


def _latency(taken: Latencies) -> Latency:
    return Latency(taken.count, taken.percentile(0.5), taken.percentile(0.95))


def _series(ring: Ring, now: float) -> Series:
    return Series(ring.width, tuple(ring.series(now)))


def _tokens(row: Row) -> int:
    hour = row.windows[-1].counts
    return hour.prompt_tokens + hour.completion_tokens
