"""What the fast path knows of one adapter version, and the plain types that it hands out.

Owns the record and its states. Does not own what makes them change (`fast_path`), nor room (`budget`).
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import TracebackType

from adapter_store.manifest import VersionManifest
from serving_service.core.adapter_entry import Key
from serving_service.engine.protocol import Engine

Alias = tuple[str, str, str]
"""Tenant, adapter, alias."""
_HALF_LIFE_S = 300.0


class State(StrEnum):
    """Where a version is, in this order; from everywhere it may go back to wanted, or end."""

    WANTED = "wanted"
    """Waits for its turn, for room, or after a failure."""
    MERGING = "merging"
    """Its weights are fetched from the store, or merged here."""
    STARTING = "starting"
    PROBING = "probing"
    """Compared with the swapped path."""
    SERVING = "serving"
    DRAINING = "draining"
    """Requests in flight finish; nobody else gets it."""
    GONE = "gone"


class Demand:
    """How often a version is asked for; what is five minutes old counts half.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._value, self._at = clock, 0.0, clock()

    def count(self, amount: float = 1.0) -> None:
        """Counts one request, or so many tokens."""
        self._value, self._at = self.value() + amount, self._clock()

    def per_minute(self) -> float:
        """What came in a minute, if it has come evenly."""
        return self.value() * math.log(2) * 60.0 / _HALF_LIFE_S

    def value(self) -> float:
        return self._value * math.exp2((self._at - self._clock()) / _HALF_LIFE_S)


@dataclass(frozen=True, slots=True)
class MergedRow:
    """One merged version, for operators.

    Attributes:
        bytes: what its engine takes of the budget; 0 while that is not known.
        users: requests in flight.
        wanted_by: 'operator', and the aliases whose route wants it, with ' (auto)' where traffic does.
        why: why it is not serving, or what ended it last.
        failures: since it last served well.
        retry_seconds: until it is tried again; 0 when it is not waiting for that.
        build_seconds: from the beginning of the last merge to its first request; 0 before.
        promoted_because: why it was promoted by itself; empty where it was not.
    """

    tenant: str
    adapter: str
    version: str
    state: State
    since: datetime
    bytes: int
    users: int
    uses: int
    last_use: datetime | None
    wanted_by: tuple[str, ...]
    why: str
    failures: int
    retry_seconds: float
    build_seconds: float
    promoted_because: str


class Wish(IntEnum):
    """Who wants a version merged; the higher one has its way."""

    NOBODY = 0
    TRAFFIC = 1
    """An alias's route is auto, and it is asked for enough."""
    ALIAS = 2
    OPERATOR = 3


@dataclass(slots=True, eq=False)
class Life:
    """The record of one version, changed by this package only."""

    key: Key
    manifest: VersionManifest
    demand: Demand
    state: State = State.GONE
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: bool = False
    """By an operator."""
    aliases: set[Alias] = field(default_factory=set)
    """Whose route wants it."""
    autos: set[Alias] = field(default_factory=set)
    """Of these, whose traffic does."""
    because: str = ""
    """Why that one was promoted."""
    refused: bool = False
    """An operator demoted it: aliases do not bring it back."""
    successors: frozenset[Key] = frozenset()
    """What the alias that let it go means now; it serves on until they do, so that a quick rollback finds it."""
    task: "asyncio.Task[None] | None" = None
    """Lives it; the only one that changes `state` and `engine`, so that transitions come one at a time."""
    engine: Engine | None = None
    """Only while it may be given to requests."""
    template: str = ""
    bytes: int = 0
    users: int = 0
    uses: int = 0
    last_use: datetime | None = None
    why: str = ""
    failures: int = 0
    no_room: bool = False
    distrusted: bool = False
    """Weights from the store failed the comparison: the next ones are merged here."""
    retry_at: float = 0.0
    build_seconds: float = 0.0
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    """It has to go, wherever it is."""
    poke: asyncio.Event = field(default_factory=asyncio.Event)
    """What it waits for may have come."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change of state, and replaced."""

    @property
    def name(self) -> str:
        """As residency and the engine call it."""
        return f"{self.key[0]}/{self.key[1]}@{self.key[2]}"

    @property
    def wanted(self) -> bool:
        """Whether somebody wants it merged."""
        return self.wish is not Wish.NOBODY

    @property
    def wish(self) -> Wish:
        """Who wants it merged."""
        if self.asked:
            return Wish.OPERATOR
        if self.aliases - self.autos and not self.refused:
            return Wish.ALIAS
        return Wish.TRAFFIC if self.autos else Wish.NOBODY

    def turn(self, state: State) -> None:
        """Changes the state, and tells who waits for that."""
        self.state, self.since = state, datetime.now(UTC)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def send_away(self) -> None:
        """Lets it end, or begin anew when it is wanted by then."""
        self.leave.set()
        self.poke.set()

    def row(self, now: float) -> MergedRow:
        """Writes it down for operators; `now` is of the clock that `retry_at` is of."""
        return MergedRow(
            *self.key,
            state=self.state,
            since=self.since,
            bytes=self.bytes,
            users=self.users,
            uses=self.uses,
            last_use=self.last_use,
            wanted_by=(*(["operator"] if self.asked else []), *sorted(map(self._named, self.aliases))),
            why=self.why,
            failures=self.failures,
            retry_seconds=max(0.0, self.retry_at - now) if self.state is State.WANTED else 0.0,
            build_seconds=self.build_seconds,
            promoted_because=self.because if self.autos else "",
        )

    def _named(self, alias: Alias) -> str:
        return f"{alias[1]}:{alias[2]}{' (auto)' if alias in self.autos else ''}"


class MergedLease:
    """The right to use a merged engine inside a block; the engine is not stopped before the block ends, unless it dies or the
    service stops.

    Args:
        life: serving.
    """

    def __init__(self, life: Life) -> None:
        assert life.engine is not None
        self._life, self.engine, self.template = life, life.engine, life.template
        life.users += 1
        life.uses += 1
        life.last_use = datetime.now(UTC)
        life.idle.clear()

    def __enter__(self) -> "MergedLease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._life.users -= 1
        if not self._life.users:
            self._life.idle.set()
