"""One request from name to last token: resolve, be admitted, lease, render, generate, measure.

Owns the order and the timings. Does not own the parts. Closing the stream (a cancelled call) stops generating and gives
the lease and the place back, in this order.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field

from adapter_store.manifest import VersionManifest
from graftwork.errors import GraftError
from serving_service.core.admission import Admission, Wish
from serving_service.core.answers import Event, Finished, Route, Scores, Text
from serving_service.core.deadlines import within
from serving_service.core.errors import InvalidRequest
from serving_service.core.fast_path.fast_path import FastPath
from serving_service.core.observing import NOBODY_WATCHES, Observer, Stage
from serving_service.core.opened import Opened, Place
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.prompt_size import PromptSize
from serving_service.core.residency import Residency
from serving_service.core.routing import Found, Router, adapter_of
from serving_service.core.sampling import SamplingWish, resolve_sampling
from serving_service.core.under_way import UnderWay
from serving_service.core.watch import Watch
from serving_service.engine.protocol import Delta, Engine, EngineUnavailable, Prompt, Tier

MAX_SCORED_PROMPT = 4096
"""Tokens of a prompt whose log-probabilities may be asked for: the engine holds a row of the whole vocabulary for each."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the core takes it.

    Attributes:
        tenant: the caller's, already authorised.
        model: '' for the base, else `adapter`, `adapter:alias`, `adapter@version`.
        prompt: text as it is, a chat, or tokens; None when the engine's own front end reads it (`Generation.open`).
        sampling: what the caller asked for.
        owner: below which tenant `model` is looked up; empty is `tenant`, and another one where the caller may not look.
        account: whose limits and turn it takes: the caller's own tenant, '' for an operator; None is `tenant`.
        deadline: of `time.monotonic()`; it ends then, wherever it is. None is never.
        prompt_bytes: about how long it is, where `prompt` does not tell.
    """

    tenant: str
    model: str
    prompt: Prompt | None
    sampling: SamplingWish = field(default_factory=SamplingWish)
    owner: str = ""
    account: str | None = None
    deadline: float | None = None
    prompt_bytes: int = 0


class Generation:
    """Runs requests.

    Args:
        router: what a model text means.
        residency: where adapters are.
        engine: what generates.
        limits: of prompts.
        admission: who may run.
        observer: is told what each request does.
        fast_path: may answer a request in the engine's place; None: nothing is merged.
    """

    def __init__(
        self,
        router: Router,
        residency: Residency,
        engine: Engine,
        limits: PromptLimits,
        admission: Admission,
        observer: Observer = NOBODY_WATCHES,
        fast_path: FastPath | None = None,
    ) -> None:
        self._fast_path = fast_path
        self._router, self._residency, self._engine, self._limits = router, residency, engine, limits
        self._admission, self._size, self._observer = admission, PromptSize(), observer
        self.under_way = UnderWay()

    @contextlib.asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Opened]:
        """Finds what a request runs on, waits for its turn, and keeps both inside the block; both transports go through here.

        Raises:
            GraftError: of routing, admission or residency; Draining while the node takes none.
        """
        arrived = time.monotonic()
        with Watch(self._observer, call.tenant, adapter_of(call.model)) as watch, self.under_way.one():
            async with contextlib.AsyncExitStack() as held:
                opened = await self._open(call, watch, arrived, held)
                with watch.stage(Stage.GENERATE):
                    yield opened

    async def resolve(
        self, account: str, owner: str, model: str, deadline: float | None = None
    ) -> VersionManifest | None:
        """Returns the version that a model's name means now, None for the base; see `Router.resolve` and `Admission.naming`."""
        found = await self._find(account, owner, model, deadline)
        return found.manifest if found else None

    async def _find(self, account: str, owner: str, model: str, deadline: float | None) -> Found | None:
        async with self._admission.naming(account, deadline), within(deadline, "the model's name was looked up"):
            return await self._router.find(owner, model)

    async def _open(self, call: Call, watch: Watch, arrived: float, held: contextlib.AsyncExitStack) -> Opened:
        with watch.stage(Stage.RESOLVE):
            found = await self._find(_account(call), call.owner or call.tenant, call.model, call.deadline)
        manifest = found.manifest if found else None
        watch.version = manifest.version if manifest else ""
        hold = await held.enter_async_context(contextlib.AsyncExitStack())

        async def swapped() -> Place:
            await hold.aclose()  # first: what a request that comes again gives back may be what it waits for
            return await self._swapped(call, watch, manifest, hold, again=True)

        place = None
        if found and self._fast_path:
            if found.name.alias:
                alias = found.manifest.tenant, found.name.adapter, found.name.alias
                self._fast_path.note(alias, found.manifest, found.targets)
            if self._fast_path.serves(found.manifest):
                place = await self._merged(call, watch, found.manifest, hold) or await swapped()
        if place is None:
            place = await self._swapped(call, watch, manifest, hold)
        return Opened(call.tenant, place, swapped, arrived, watch)

    async def _merged(
        self, call: Call, watch: Watch, manifest: VersionManifest, hold: contextlib.AsyncExitStack
    ) -> Place | None:
        """A place on the version's merged engine, which takes no slot; None when that has gone while the request waited."""
        assert self._fast_path is not None
        with watch.stage(Stage.QUEUE):
            admitted = await hold.enter_async_context(self._admission.admit(self._wish(call, None)))
        if (lease := self._fast_path.lease(manifest)) is None:
            return None
        hold.enter_context(lease)
        return Place(lease.engine, Route.MERGED, None, lease.template, Tier.DEVICE, 0.0, admitted)

    async def _swapped(
        self,
        call: Call,
        watch: Watch,
        manifest: VersionManifest | None,
        hold: contextlib.AsyncExitStack,
        *,
        again: bool = False,
    ) -> Place:
        """A place on the backbone's engine, with the adapter or without one; see `Wish` for `again`."""
        with watch.stage(Stage.QUEUE):
            admitted = await hold.enter_async_context(self._admission.admit(self._wish(call, manifest, again=again)))
        if manifest is None:
            return Place(self._engine, Route.BASE, None, None, None, 0.0, admitted)
        # Inside the admission, so that a request which waits holds no adapter, and loading is not counted as waiting.
        with watch.stage(Stage.LOAD):
            async with within(call.deadline, "its adapter was loaded"):
                lease = await hold.enter_async_context(self._residency.lease(manifest))
        admitted.loaded()
        return Place(self._engine, Route.SWAPPED, lease.lora, lease.template, lease.tier, lease.load_ms, admitted)

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Streams a request's events: Started with the first text, Text pieces, and Finished for each answer.

        Raises:
            GraftError: of routing, residency or the engine; InvalidRequest names the field.
        """
        try:
            prompt = self._limits.check(call.prompt)
            sampling = resolve_sampling(call.sampling, self._engine.info.max_model_len)
        except GraftError:
            with Watch(self._observer, call.tenant, adapter_of(call.model)):
                raise  # seen like every other refusal
        async with self.open(call) as opened:
            async with within(call.deadline, "its prompt was read"):
                rendered = await self._engine.render(prompt, opened.template)
            if sampling.prompt_logprobs and len(rendered.token_ids) > MAX_SCORED_PROMPT:
                raise InvalidRequest(
                    f"prompt_logprobs is for prompts of at most {MAX_SCORED_PROMPT} tokens; this one has "
                    f"{len(rendered.token_ids)}"
                )
            self._size.learn(prompt, len(rendered.token_ids))
            while True:
                opened.prompted(len(rendered.token_ids))
                deltas = opened.place.engine.generate(
                    opened.request_id,
                    rendered,
                    sampling,
                    lora=opened.lora,
                    tenant=call.tenant,
                    newcomer=opened.newcomer,
                    crowds=opened.crowds,
                )
                # A layer of its own for those that have a time limit: the others need not pay for it with every token.
                pieces = deltas if call.deadline is None else _until(call.deadline, deltas)
                tokens: dict[int, int] = {}
                try:
                    # Closed before the lease is given back: nothing may run on an adapter that is.
                    async with contextlib.aclosing(deltas), contextlib.aclosing(pieces):
                        async for delta in pieces:
                            for event in _events(opened, tokens, delta):
                                yield event
                    return
                except EngineUnavailable:
                    # What has begun to stream cannot begin again; everything else goes where merged engines are not needed.
                    if opened.first_token or not await opened.retreat():
                        raise

    def _wish(self, call: Call, manifest: VersionManifest | None, *, again: bool = False) -> Wish:
        name = _adapter_name(manifest) if manifest else None
        return Wish(
            tenant=_account(call),
            adapter=name,
            # The template lies in the adapter's folder, which may not be here yet: estimated now, corrected once rendered.
            input_tokens=self._size.tokens(call.prompt) if call.prompt else self._size.of_bytes(call.prompt_bytes),
            loads=name is not None and self._engine.tier(name) is None,
            deadline=call.deadline,
            again=again,
        )


async def _until(deadline: float, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The engine's pieces, as long as the caller's time lasts."""
    while True:
        async with within(deadline, "the answer was generated"):
            delta = await anext(deltas, None)
        if delta is None:
            return
        yield delta


def _events(opened: Opened, tokens: dict[int, int], delta: Delta) -> Iterator[Event]:
    """What a caller sees of one of the engine's pieces; `tokens` counts those of each answer."""
    tokens[delta.index] = tokens.get(delta.index, 0) + delta.tokens
    began = opened.first_token
    visible = bool(delta.text or delta.finish_reason or delta.scores or delta.prompt_scores)
    opened.answered(delta.tokens, visible, delta.finish_reason)
    if not began and opened.first_token:
        yield opened.started()
    if delta.prompt_scores is not None:  # before any text; a piece's own come after it
        yield Scores(delta.prompt_scores, of_prompt=True)
    if delta.text:
        yield Text(delta.text, delta.index)
    if delta.scores is not None and delta.scores.token_ids:
        yield Scores(delta.scores, index=delta.index)
    if delta.finish_reason:
        counts = opened.prompt_tokens, tokens[delta.index]
        yield Finished(delta.finish_reason, *counts, opened.timings(), delta.index)


def _account(call: Call) -> str:
    return call.tenant if call.account is None else call.account


def _adapter_name(manifest: VersionManifest) -> str:
    """As residency and the engine call it."""
    return f"{manifest.tenant}/{manifest.adapter}@{manifest.version}"
