"""Which aliases with the route `auto` deserve a merged engine, and until when: the choice alone, from what they are asked for.

Owns the traffic that it goes by, the rules, and the limit on how often it changes its mind. Does not own wishes (`fast_path`),
engines (`living`) or room (`room`). Pure but for the clock.

An alias deserves one when it is asked for many tokens a minute, for some time; with a latency target, only while its requests
miss that on the adapter path, and then its tokens count twice. Tokens are what the engine works on (the answer's count twice, as
in admission), and are the same on both paths, so that a promotion does not change what it was decided by.

Invariants, each with a test, for any traffic:
- no more than `changes_per_hour` promotions and demotions within any hour;
- no promotion beyond the places that there are;
- who was promoted stays for a while, and who left stays away for a while, unless somebody else decides otherwise.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from dataclasses import dataclass

from adapter_store import Target
from adapter_store.manifest import NO_TARGET, LatencyTarget, VersionManifest
from serving_service.core.adapter_entry import Key, key_of
from serving_service.core.fast_path.life import Alias, Demand
from serving_service.core.fast_path.recent import Recent
from serving_service.core.observing import CallEnded, Seen

_MOST = 1024  # aliases; the one that was named longest ago goes first
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class AutoRules:
    """When.

    Attributes:
        tokens_per_minute: from which an alias deserves an engine: prompt tokens and twice the answer's.
        changes_per_hour: most promotions and demotions; replacing one by another is two. 0 promotes nothing.
        sustained: seconds for which it has to be asked for so much.
        quiet: seconds for which it has to be asked for less than half of that to lose its engine.
        stays: seconds that it keeps its engine at least, and that one which left stays away.
        gives_up: seconds that one stays away whose engine failed, or was too large for the room that there was.
        stronger: how many times as much an alias must be asked for as the one that it replaces.
        samples: requests, at least, before a latency counts.
    """

    tokens_per_minute: float = 3000.0
    changes_per_hour: int = 6
    sustained: float = 120.0
    quiet: float = 600.0
    stays: float = 900.0
    gives_up: float = _HOUR_S
    stronger: float = 2.0
    samples: int = 10


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do now; nothing where all are None.

    Attributes:
        promote: gets an engine.
        instead_of: loses its own for that.
        demote: loses its engine, which it no longer deserves.
    """

    promote: Alias | None = None
    instead_of: Alias | None = None
    demote: Alias | None = None


@dataclass(slots=True, eq=False)
class _Standing:
    """What is known of one alias."""

    alias: Alias
    manifest: VersionManifest
    targets: tuple[Target, ...]
    demand: Demand
    first_token: Recent
    between_tokens: Recent
    keys: frozenset[Key] = frozenset()
    latency: LatencyTarget = NO_TARGET
    above: float | None = None
    """Since when it has deserved an engine; None: it does not."""
    below: float | None = None
    """Since when it has been asked for less than half of what it takes."""
    promoted: float | None = None
    """When; None: it is not."""
    weight: float = 1.0
    """Of its tokens, when it was promoted."""
    away_until: float = 0.0
    barred: frozenset[Key] = frozenset()
    """What it meant when an operator demoted it: not promoted while it means that."""
    because: str = ""


class AutoPromotion:
    """Chooses; also an `Observer` of the requests that it goes by.

    Args:
        rules: when.
        clock: seconds, monotonic.
    """

    def __init__(self, rules: AutoRules = AutoRules(), clock: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._clock = rules, clock
        self._standings: OrderedDict[Alias, _Standing] = OrderedDict()
        self._of: dict[tuple[str, str], set[Alias]] = {}
        self._changes: deque[float] = deque()
        self._pair: tuple[Alias, Alias] | None = None  # who could replace whom, and since when
        self._pair_since = 0.0

    # What is seen

    def note(self, alias: Alias, manifest: VersionManifest, targets: tuple[Target, ...]) -> None:
        """Takes what an alias with the route auto means now."""
        found = self._standings.get(alias)
        if found is None:
            if len(self._standings) >= _MOST:
                self._forget_oldest()
            recent = Recent(self._clock), Recent(self._clock)
            found = _Standing(alias, manifest, (), Demand(self._clock), *recent)
            self._standings[alias] = found
            self._of.setdefault(alias[:2], set()).add(alias)
        self._standings.move_to_end(alias)
        if found.targets is not targets:
            found.manifest, found.targets = manifest, targets
            found.keys = frozenset(key_of(target.manifest) for target in targets)
            found.latency = targets[0].latency

    def forget(self, alias: Alias) -> None:
        """Takes that an alias is gone, or has another route."""
        if self._standings.pop(alias, None) is not None:
            known = self._of[alias[:2]]
            known.discard(alias)
            if not known:
                del self._of[alias[:2]]

    def see(self, event: Seen) -> None:
        """Counts what a request asked for."""
        if not isinstance(event, CallEnded):
            return
        for alias in self._of.get((event.tenant, event.adapter), ()):
            standing = self._standings[alias]
            if (event.tenant, event.adapter, event.version) not in standing.keys:
                continue
            standing.demand.count(event.prompt_tokens + 2.0 * event.completion_tokens)
            if event.route == "swapped" and event.first_token_seconds is not None:
                standing.first_token.take(event.first_token_seconds)
                if event.completion_tokens > 1:
                    rest = event.total_seconds - event.first_token_seconds
                    standing.between_tokens.take(rest / (event.completion_tokens - 1))

    # What others decided

    def left(self, alias: Alias, *, failed: bool = False) -> None:
        """Takes that an alias has no engine any more, or will get none: it stays away for a while."""
        if (standing := self._standings.get(alias)) is not None:
            standing.promoted = standing.above = standing.below = None
            standing.away_until = self._clock() + (self._rules.gives_up if failed else self._rules.stays)

    def bar(self, alias: Alias) -> None:
        """Takes that an operator demoted what it means now."""
        if (standing := self._standings.get(alias)) is not None:
            self.left(alias)
            standing.barred = standing.keys

    # What is chosen

    def promoted(self, alias: Alias) -> bool:
        """Whether it is to have an engine."""
        return (standing := self._standings.get(alias)) is not None and standing.promoted is not None

    def because(self, alias: Alias) -> str:
        """Why it was promoted."""
        return self._standings[alias].because

    def meaning(self, alias: Alias) -> tuple[VersionManifest, tuple[Target, ...]]:
        """Returns what it was last noted to mean."""
        standing = self._standings[alias]
        return standing.manifest, standing.targets

    def choose(self, free: int, held: Container[Key] = ()) -> Choice:
        """Chooses at most one change, which has been made when this returns; to be asked every few seconds.

        Args:
            free: engines for which there is room.
            held: versions that others want merged, so that they need no promotion.
        """
        now = self._clock()
        self._look(now)
        while self._changes and self._changes[0] <= now - _HOUR_S:
            self._changes.popleft()
        left = self._rules.changes_per_hour - len(self._changes)
        if left < 1:
            return Choice()
        for standing in self._standings.values():
            if self._may_leave(standing, now) and _lasted(standing.below, self._rules.quiet, now):
                self._changes.append(now)
                self.left(standing.alias)
                return Choice(demote=standing.alias)
        best = self._best(now, held)
        if best is None:
            return Choice()
        if free >= len(best.keys):
            self._promote(best, now)
            return Choice(promote=best.alias)
        return self._replace(best, now) if left > 1 else Choice()

    def _look(self, now: float) -> None:
        """Brings up to date since when each has been above and below."""
        need = self._rules.tokens_per_minute
        for standing in self._standings.values():
            score = self._score(standing)
            standing.above = (standing.above if standing.above is not None else now) if score >= need else None
            standing.below = (standing.below if standing.below is not None else now) if score < need / 2 else None

    def _score(self, standing: _Standing) -> float:
        """Tokens a minute, as they count; 0 where the target is met without an engine."""
        asked = standing.demand.per_minute()
        if standing.promoted is not None:
            return asked * standing.weight
        # Not for all who are asked for little: percentiles take tens of microseconds each, on the loop that serves.
        return asked * self._weight(standing) if asked * 2 >= self._rules.tokens_per_minute else 0.0

    def _weight(self, standing: _Standing) -> float:
        if standing.latency == NO_TARGET:
            return 1.0
        return 2.0 if self._missed(standing) else 0.0

    def _missed(self, standing: _Standing) -> str:
        """Says which target is missed; empty when none is."""
        for what, target, recent in (
            ("first token", standing.latency.first_token_ms, standing.first_token),
            ("between tokens", standing.latency.between_tokens_ms, standing.between_tokens),
        ):
            taken = recent.taken()
            if target and taken.count >= self._rules.samples:
                ms = taken.percentile(0.95) * 1e3
                if ms > target:
                    return f"{what} {ms:.0f} ms at p95, target {target} ms"
        return ""

    def _best(self, now: float, held: Container[Key]) -> _Standing | None:
        deserving = [
            standing
            for standing in self._standings.values()
            if standing.promoted is None
            and now >= standing.away_until
            and _lasted(standing.above, self._rules.sustained, now)
            and standing.keys != standing.barred
            and not all(key in held for key in standing.keys)
        ]
        return max(deserving, key=self._score, default=None)

    def _may_leave(self, standing: _Standing, now: float) -> bool:
        return standing.promoted is not None and now - standing.promoted >= self._rules.stays

    def _replace(self, best: _Standing, now: float) -> Choice:
        """Lets the strongest take the weakest one's place, when it has been so much stronger for long enough."""
        weakest = min(
            (one for one in self._standings.values() if self._may_leave(one, now) and len(one.keys) >= len(best.keys)),
            key=self._score,
            default=None,
        )
        if weakest is None or self._score(best) < self._rules.stronger * self._score(weakest):
            self._pair = None
            return Choice()
        if self._pair != (best.alias, weakest.alias):
            self._pair, self._pair_since = (best.alias, weakest.alias), now
        if now - self._pair_since < self._rules.sustained:
            return Choice()
        self._pair = None
        self._changes.append(now)
        self.left(weakest.alias)
        self._promote(best, now)
        return Choice(promote=best.alias, instead_of=weakest.alias)

    def _promote(self, standing: _Standing, now: float) -> None:
        self._changes.append(now)
        missed = self._missed(standing)
        standing.weight = self._weight(standing)
        standing.promoted, standing.below = now, None
        tokens = f"{standing.demand.per_minute():,.0f} tokens a minute (from {self._rules.tokens_per_minute:,.0f})"
        standing.because = f"{tokens}; {missed}, so they count twice" if missed else tokens

    def _forget_oldest(self) -> None:
        oldest = next((alias for alias, one in self._standings.items() if one.promoted is None), None)
        self.forget(oldest if oldest is not None else next(iter(self._standings)))


def _lasted(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds
