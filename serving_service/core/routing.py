"""Which adapter version a request's `model` means.

Owns the model text, the short caches in front of the store (`in_use` keeps them fresh), and the check that the version was trained
for the backbone that runs here. Does not own residency. Another tenant's adapter cannot be named: the tenant comes from the
caller's key, never from the model text.
"""

import asyncio
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from adapter_store import Target
from adapter_store.errors import InvalidName, NotFound, StoreUnavailable
from adapter_store.inquiries import Inquiries
from adapter_store.manifest import VersionManifest
from adapter_store.names import parse_digest, parse_id
from adapter_store.outage import Outage
from serving_service.core.errors import AdapterUnfit, InvalidRequest, WrongBackbone
from serving_service.core.in_use import NamesInUse
from serving_service.core.trust import Trust

DEFAULT_ALIAS = "prod"
_CACHED = 4096  # answers kept; a bound, because unknown names come from callers
_AGAIN = 0.75
"""Of an alias's seconds, after which it is asked for again where it is in use."""


class Resolver(Protocol):
    """The one call of the store that routing needs; sync and thread-safe."""

    def targets(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> tuple[Target, ...]: ...


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed `model`: an adapter and either an alias or a version."""

    adapter: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.adapter}@{self.version}" if self.version else f"{self.adapter}:{self.alias}"


@dataclass(frozen=True, slots=True)
class Found:
    """What a model text means now.

    Attributes:
        name: as it was read.
        manifest: the version that the request goes to.
        targets: all that it might have gone to; one object for as long as the answer is reused.
    """

    name: ModelName
    manifest: VersionManifest
    targets: tuple[Target, ...]


def parse_model(text: str) -> ModelName | None:
    """Reads `adapter`, `adapter:alias` or `adapter@version`; the empty text is the base, None.

    Raises:
        InvalidRequest: it is none of these.
    """
    if not text:
        return None
    try:
        if "@" in text:
            adapter, _, version = text.partition("@")
            return ModelName(parse_id("adapter", adapter), version=parse_digest("version", version))
        adapter, colon, alias = text.partition(":")
        return ModelName(parse_id("adapter", adapter), alias=parse_id("alias", alias) if colon else DEFAULT_ALIAS)
    except InvalidName as error:
        raise InvalidRequest(
            f"model: {error}; a model is '' (the base), 'adapter', 'adapter:alias' or 'adapter@version'"
        ) from error


def adapter_of(text: str) -> str:
    """Returns the adapter that a model text names, for a log line; empty for the base, and for what is no name and may be
    anything, a prompt in the wrong field included."""
    try:
        name = parse_model(text)
    except InvalidRequest:
        return ""
    return name.adapter if name else ""


class Router:
    """Resolves model texts through the store.

    Args:
        store: answers which version a name means.
        base_digest: of the backbone that runs here.
        max_lora_rank: largest rank that the engine takes.
        alias_seconds: how long an alias's answer is reused; what a release takes to reach everybody. At most 1.
        version_seconds: how long the answer for a digest is reused. A version never changes, but it may be deleted.
        missing_seconds: how long 'not found' is reused, so that a misspelt name in a loop does not reach the store.
        patience_seconds: with a store that does not answer, before an old answer is used. Long, because a store that is
            only slow must not make this node serve versions that were replaced: what hangs for so long is away.
        clock: seconds, monotonic.
        draw: picks among a split alias's versions; from 0 to below 1, evenly.
        trust: asked about each version before anything of it is fetched; None trusts the store.
        outage: what is known of the store; shared with others that ask it.
    """

    def __init__(
        self,
        store: Resolver,
        *,
        base_digest: str,
        max_lora_rank: int,
        alias_seconds: float = 1.0,
        version_seconds: float = 60.0,
        missing_seconds: float = 1.0,
        patience_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        trust: Trust | None = None,
        outage: Outage | None = None,
    ) -> None:
        self._store, self._trust = store, trust
        self._base_digest = base_digest
        self._max_lora_rank = max_lora_rank
        self._alias_seconds = min(alias_seconds, 1.0)
        self._version_seconds = version_seconds
        self._missing_seconds = missing_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._draw = draw
        self._answers = _Answers()
        self._outage = outage or Outage(clock)
        self._inquiries: Inquiries[_Question, _Answer] = Inquiries(self._outage)
        self._in_use: NamesInUse[_Question] = NamesInUse(self._again, _AGAIN * self._alias_seconds, clock)

    async def close(self) -> None:
        """Asks for no name again."""
        await self._in_use.close()

    async def resolve(self, tenant: str, model: str) -> VersionManifest | None:
        """Returns the version that a tenant's request means, or None for the base; see `find`."""
        found = await self.find(tenant, model)
        return found.manifest if found else None

    async def find(self, tenant: str, model: str) -> Found | None:
        """Returns what a tenant's request means, as `look` does; what is asked for is in use, and its answer kept fresh."""
        found = await self.look(tenant, model)
        if found and found.name.alias and self._alias_seconds:
            self._in_use.used((tenant, found.name))
        return found

    async def look(self, tenant: str, model: str) -> Found | None:
        """Returns what a name means, or None for the base; the version is drawn anew each time for a split alias.

        Raises:
            InvalidRequest: the text is no model name.
            NotFound: the tenant has no such adapter, alias or version.
            WrongBackbone: it was trained for another backbone.
            AdapterUnfit: its rank is above this fleet's maximum.
            Untrusted: no key that this service trusts has signed it.
            StoreUnavailable: the store does not answer and never answered this before.
        """
        name = parse_model(model)
        if name is None:
            return None
        targets = await self._lookup(tenant, name)
        manifest = _pick(targets, self._draw())
        if manifest.base_digest != self._base_digest:
            raise WrongBackbone(
                f"{tenant}/{name} was trained for the backbone {manifest.base_model} (weights {manifest.base_digest[:12]}), "
                f"this service runs weights {self._base_digest[:12]}: ask a fleet with that backbone or train it again"
            )
        if manifest.rank > self._max_lora_rank:
            raise AdapterUnfit(
                f"{tenant}/{name} has rank {manifest.rank}, this fleet takes at most {self._max_lora_rank}: "
                "train it with a smaller rank or raise GRAFT_SERVING_MAX_LORA_RANK"
            )
        if self._trust:
            await self._trust.require(manifest)
        return Found(name, manifest, targets)

    async def _lookup(self, tenant: str, name: ModelName) -> tuple[Target, ...]:
        question, came = (tenant, name), self._clock()
        while True:
            known = self._answers.get(question)
            if known and known.until > came:
                return known.targets()
            # What is known goes on being served: a stale alias is worth more to its tenant than no answer.
            stale = known if known and not known.missing else None
            try:
                flight = self._asked(question)
            except StoreUnavailable:
                if stale:
                    return stale.targets()
                raise
            flight.add_done_callback(_look_at)
            await asyncio.wait({flight}, timeout=self._outage.patience(self._patience_seconds) if stale else None)
            if not flight.done():
                self._outage.suspect()
            if stale and (not flight.done() or isinstance(flight.exception(), StoreUnavailable)):
                return stale.targets()
            answer = flight.result()
            # It may have been asked by somebody who came long before us; then the loop asks again.
            if answer.asked >= came or answer.until > came:
                return answer.targets()

    async def _again(self, question: "_Question") -> bool:
        return not (await self._asked(question)).missing

    def _asked(self, question: "_Question") -> "asyncio.Future[_Answer]":
        """Raises StoreUnavailable at once while the store is away."""
        return asyncio.wrap_future(self._inquiries.ask(question, partial(self._ask, question)))

    def _ask(self, question: "_Question") -> "_Answer":
        """Runs in a thread. An answer is as old as its question: the store may take seconds to give it."""
        (tenant, name), asked = question, self._clock()
        try:
            targets = self._store.targets(tenant, name.adapter, alias=name.alias, version=name.version)
        except NotFound as error:
            answer = _Answer(asked, asked + self._missing_seconds, missing=str(error))
        else:
            answer = _Answer(asked, asked + (self._version_seconds if name.version else self._alias_seconds), targets)
        self._answers.keep(question, answer)
        return answer


_Question = tuple[str, ModelName]
"""A tenant, and what it named."""


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: float
    until: float
    """Seconds of the router's clock: the answer may be used without asking again."""
    found: tuple[Target, ...] = ()
    missing: str = ""
    """Why there is nothing; empty when there is."""

    def targets(self) -> tuple[Target, ...]:
        if self.missing:
            raise NotFound(self.missing)
        return self.found


class _Answers:
    """The newest answer to each of the last questions; thread-safe, because answers come in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Question, _Answer] = OrderedDict()

    def get(self, question: _Question) -> _Answer | None:
        with self._lock:
            if question in self._kept:
                self._kept.move_to_end(question)
            return self._kept.get(question)

    def keep(self, question: _Question, answer: _Answer) -> None:
        """Keeps an answer unless a newer one is there: a slow one must not bring an alias's old target back."""
        with self._lock:
            kept = self._kept.get(question)
            if kept is None or kept.asked <= answer.asked:
                self._kept[question] = answer
                self._kept.move_to_end(question)
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)


def _look_at(flight: "asyncio.Future[_Answer]") -> None:
    """Keeps asyncio from reporting a failure that nobody waited for."""
    if not flight.cancelled():
        flight.exception()


def _pick(targets: tuple[Target, ...], drawn: float) -> VersionManifest:
    """The target in whose part of the whole weight `drawn` (0 to below 1) falls."""
    left = drawn * sum(target.weight for target in targets)
    for target in targets[:-1]:
        left -= target.weight
        if left < 0:
            return target.manifest
    return targets[-1].manifest
