"""The merged fast path as requests and operators see it: who wants which version merged, and who gets an engine.

Owns wishes (an operator's, an alias's route, its traffic), leases, and the end of it all. Does not own a version's life
(`living`), room (`room`), which traffic deserves an engine (`auto`), weights (`weights`) or the comparison (`probe`).

Invariants, each with a test:
- never two engines of one version; never more of them, or more bytes, than the budget has;
- a request is never given an engine that is stopping, and an engine is not stopped under a request unless it died or the
  service stops;
- no request waits for a merged engine;
- what failed the comparison never answers a request;
- at the end no engine, merge or folder is left.

Everything here runs on one event loop and changes state between awaits only.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from adapter_store import Target
from adapter_store.manifest import VersionManifest
from serving_service.core.adapter_entry import key_of
from serving_service.core.errors import Draining, NotMerged
from serving_service.core.fast_path.auto import AutoPromotion
from serving_service.core.fast_path.budget import MergedBudget
from serving_service.core.fast_path.life import Alias, Demand, Life, MergedLease, MergedRow, State, Wish
from serving_service.core.fast_path.living import Backoff, Living
from serving_service.core.fast_path.probe import Prober
from serving_service.core.fast_path.room import MergedRoom
from serving_service.core.fast_path.weights import Weights, in_thread
from serving_service.core.folders import delete
from serving_service.core.observing import NOBODY_WATCHES, AutoChange, Observer
from serving_service.engine.merged_protocol import MergedEngines

log = structlog.get_logger(__name__)

_AUTO_FAILURES = 3  # after which traffic alone is no reason to try again soon
NOTHING_MERGED = dict.fromkeys(State, 0)


class FastPath:
    """Merged engines.

    Args:
        engines: makes them.
        weights: what they start from.
        prober: compares them with the swapped path.
        budget: for all of them.
        folder: for merged weights; this object deletes what is in there.
        backoff: after failures.
        clock: seconds, monotonic.
        observer: is told what happens.
        auto: which aliases with the route auto are to have one; None: none.
        start_seconds: most that an engine may take to start, and again for its answers to the comparison.
    """

    def __init__(
        self,
        engines: MergedEngines,
        weights: Weights,
        prober: Prober,
        budget: MergedBudget,
        folder: Path,
        backoff: Backoff = Backoff(),  # noqa: B008  # frozen
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = NOBODY_WATCHES,
        start_seconds: float = 600.0,
        auto: AutoPromotion | None = None,
    ) -> None:
        self._folder, self._clock, self._observer, self._auto = folder, clock, observer, auto
        self._lives: dict[tuple[str, str, str], Life] = {}
        self._seen: dict[Alias, tuple[Target, ...]] = {}
        self._room = MergedRoom(budget, self._lives, self._withdraw)
        self._living = Living(
            engines, weights, prober, self._room, folder, backoff, clock, observer, start_seconds, self._settle
        )

    async def clear(self) -> None:
        """Deletes what an earlier run left on disk."""
        await in_thread(delete, self._folder)

    # Requests

    def note(self, alias: Alias, manifest: VersionManifest, targets: tuple[Target, ...]) -> None:
        """Takes what an alias means now, with each request that names it.

        Args:
            alias: which.
            manifest: the target that the request goes to. Only such ones are merged: they have passed the checks of routing.
            targets: all of them.
        """
        merged = any(target.route == "merged" for target in targets)
        traffic = not merged and self._deserves(alias, manifest, targets)
        merged, seen = merged or traffic, self._seen.get(alias)
        if not merged and seen is None:
            return
        begins = None
        if merged and not self._living.closing.is_set():
            begins = self._life(manifest)
            begins.aliases.add(alias)
            if traffic and self._auto:
                begins.autos.add(alias)
                begins.because = self._auto.because(alias)
            else:
                begins.autos.discard(alias)
        if seen is not targets:  # after that: what was replaced stays for what is on its way
            self._moved(alias, targets if merged else ())
        if begins:
            self._begin(begins)

    def forget(self, alias: Alias) -> None:
        """Takes that an alias is no more."""
        if self._auto:
            self._auto.forget(alias)
        if alias in self._seen:
            self._moved(alias, ())

    @property
    def aliases(self) -> tuple[Alias, ...]:
        """Those that want something merged."""
        return tuple(self._seen)

    @property
    def asked(self) -> tuple[VersionManifest, ...]:
        """Versions that an operator wants merged."""
        return tuple(life.manifest for life in self._lives.values() if life.asked)

    def deleted(self, manifest: VersionManifest) -> None:
        """Takes that a version is no more in the store: no request can name it, so its engine ends, whoever asked for it."""
        life = self._lives.get(key_of(manifest))
        if life is not None and life.asked:
            log.info("a version that an operator wanted merged was deleted", adapter=life.name)
            life.asked, life.why = False, "the version was deleted from the store"
            self._settle()

    def serves(self, manifest: VersionManifest) -> bool:
        """Whether `lease` would give an engine now; asked once for each request, which is counted."""
        life = self._lives.get(key_of(manifest))
        if life is None:
            return False
        life.demand.count()
        return life.engine is not None and life.engine.healthy

    def lease(self, manifest: VersionManifest) -> MergedLease | None:
        """Returns the right to the version's merged engine, to be entered at once; None when none serves."""
        life = self._lives.get(key_of(manifest))
        if life is None or life.engine is None or not life.engine.healthy:
            return None
        return MergedLease(life)

    # Traffic

    def review(self) -> None:
        """Promotes and demotes what traffic wants, one of them at most; to be called every few seconds."""
        if self._auto is None or self._living.closing.is_set():
            return
        for life in list(self._lives.values()):
            if life.wish is Wish.TRAFFIC and (life.no_room or life.failures >= _AUTO_FAILURES):
                self._withdraw(life, failed=True)
        held = {key for key, life in self._lives.items() if life.wish > Wish.TRAFFIC}
        choice = self._auto.choose(self._room.free(), held)
        for alias in (choice.demote, choice.promote, choice.instead_of):
            if alias:
                self._observer.see(AutoChange(promoted=alias == choice.promote))
        if choice.demote:
            log.info("an alias's traffic no longer deserves a merged engine", alias=choice.demote)
            self._moved(choice.demote, ())
        if choice.promote:
            log.info("an alias's traffic deserves a merged engine", alias=choice.promote, instead_of=choice.instead_of)
            self.note(choice.promote, *self._auto.meaning(choice.promote))
            if choice.instead_of:
                self._replace(choice.instead_of, choice.promote)

    def _deserves(self, alias: Alias, manifest: VersionManifest, targets: tuple[Target, ...]) -> bool:
        """Whether an alias's route is auto, and it is promoted."""
        if self._auto is None:
            return False
        if not any(target.route == "auto" for target in targets):
            self._auto.forget(alias)
            return False
        self._auto.note(alias, manifest, targets)
        return self._auto.promoted(alias)

    def _replace(self, alias: Alias, by: Alias) -> None:
        """Lets another alias have what one's traffic won; its engine serves on until that one's does or needs its room."""
        coming = frozenset(key for key, life in self._lives.items() if by in life.autos)
        self._seen.pop(alias, None)
        for life in self._lives.values():
            if alias in life.autos:
                life.aliases.discard(alias)
                life.autos.discard(alias)
                life.successors = coming
        self._settle()

    def _withdraw(self, life: Life, *, failed: bool = False, barred: bool = False) -> None:
        """Ends the wish of a version's traffic."""
        for alias in list(life.autos):
            if self._auto and barred:
                self._auto.bar(alias)
            elif self._auto:
                self._auto.left(alias, failed=failed)
            self._moved(alias, ())

    # Operators

    async def promote(self, manifest: VersionManifest, *, wait: bool) -> MergedRow:
        """Wants a version merged until it is demoted, or makes room.

        Args:
            manifest: which; it has passed the checks of routing.
            wait: return once it serves, or has failed for the first time; the row says which.

        Raises:
            Draining: the service stops.
        """
        self._require_open()
        life = self._life(manifest)
        life.asked, life.refused = True, False
        if life.state is State.WANTED:
            life.poke.set()  # an operator does not wait for the next try
            life.no_room = False
        failures = life.failures
        self._begin(life)
        while (
            wait and life.wanted and life.state is not State.SERVING and life.failures == failures and not life.no_room
        ):
            await life.changed.wait()
        return life.row(self._clock())

    def demote(self, manifest: VersionManifest) -> MergedRow:
        """Ends a version's merged engine once the requests in flight have finished; while an alias wants it, until the next
        `promote` or the end of the service.

        Raises:
            NotMerged: nobody wants it merged, and it is not.
        """
        life = self._lives.get(key_of(manifest))
        if life is None or (not life.wanted and life.state is State.GONE):
            raise NotMerged(f"{manifest.tenant}/{manifest.adapter}@{manifest.version} is not merged here")
        self._withdraw(life, barred=True)
        life.asked, life.refused, life.why = False, bool(life.aliases), "an operator demoted it"
        life.send_away()
        return life.row(self._clock())

    def rows(self) -> list[MergedRow]:
        """Lists the versions that are merged, are to be, or were until an operator demoted them."""
        return [life.row(self._clock()) for _, life in sorted(self._lives.items(), key=lambda pair: pair[0])]

    def census(self) -> dict[State, int]:
        """Counts versions by state."""
        counts = NOTHING_MERGED.copy()
        for life in self._lives.values():
            counts[life.state] += 1
        return counts

    async def close(self) -> None:
        """Ends all engines and merges; requests that still run on one fail."""
        self._living.closing.set()
        tasks = [life.task for life in self._lives.values() if life.task]
        for life in self._lives.values():
            life.send_away()
        if tasks:
            await asyncio.wait(tasks)
        await self.clear()

    # Wishes

    def _moved(self, alias: Alias, targets: tuple[Target, ...]) -> None:
        """An alias means something else now; none: it wants nothing merged."""
        now = frozenset(key_of(target.manifest) for target in targets)
        if targets:
            self._seen[alias] = targets
        else:
            self._seen.pop(alias, None)
        for life in self._lives.values():
            if alias in life.aliases and life.key not in now:
                life.aliases.discard(alias)
                life.autos.discard(alias)
                life.successors = now
        self._settle()

    def _settle(self) -> None:
        """Sends away what nobody wants and nothing is to be kept for; forgets what has gone."""
        for life in list(self._lives.values()):
            if life.wanted:
                continue
            if life.state is State.GONE:
                # A refusal is remembered for as long as the alias would bring it back.
                if life.task is None and not (life.refused and life.aliases):
                    del self._lives[life.key]
            elif not (life.state is State.SERVING and any(self._coming(key) for key in life.successors)):
                life.send_away()

    def _coming(self, key: tuple[str, str, str]) -> bool:
        """Whether a version is on its way, and has not failed or been demoted."""
        life = self._lives.get(key)
        return life is not None and life.wanted and life.state is not State.SERVING and not life.failures

    def _life(self, manifest: VersionManifest) -> Life:
        key = key_of(manifest)
        if key not in self._lives:
            self._lives[key] = Life(key, manifest, Demand(self._clock))
        return self._lives[key]

    def _begin(self, life: Life) -> None:
        """Lets somebody live it, unless somebody does."""
        if life.task is not None or not life.wanted:
            return
        life.task = asyncio.create_task(self._living.live(life), name=f"merged {life.name}")

        def ended(_: "asyncio.Task[None]") -> None:
            life.task = None
            if not self._living.closing.is_set():
                self._begin(life)  # wanted again after its last look
                self._settle()

        life.task.add_done_callback(ended)

    def _require_open(self) -> None:
        if self._living.closing.is_set():
            raise Draining("the service is stopping")
