"""One request from name to last token: resolve, be admitted, lease, render, generate, measure.

Owns the order and the timings. Does not own the parts. Closing the stream (a cancelled call) stops generating and gives
the lease and the place back, in this order.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from adapter_store.manifest import VersionManifest
from graftwork.errors import GraftError
from serving_service.core.admission import Admission, Admitted, Wish
from serving_service.core.deadlines import within
from serving_service.core.errors import Draining, InvalidRequest
from serving_service.core.observing import NOBODY_WATCHES, Observer, Stage, Watch
from serving_service.core.prompt_size import PromptSize, text_bytes
from serving_service.core.residency import Residency
from serving_service.core.routing import Router, adapter_of
from serving_service.core.sampling import SamplingWish, resolve_sampling
from serving_service.engine.protocol import Delta, Engine, LoraRef, Prompt, Tier, TokenIds, TokenScores

ROLES = frozenset({"system", "user", "assistant"})
MAX_SCORED_PROMPT = 4096
"""Tokens of a prompt whose log-probabilities may be asked for: the engine holds a row of the whole vocabulary for each."""


class Route(StrEnum):
    """How the answer was made."""

    BASE = "base"
    SWAPPED = "swapped"
    MERGED = "merged"


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


@dataclass(frozen=True, slots=True)
class Started:
    """Sent once, before everything else. `version` is empty and `tier` None for the base."""

    request_id: str
    version: str
    route: Route
    tier: Tier | None


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece of answer `index`."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of the prompt's tokens from the second on, or of the answer's next ones; only when asked for."""

    scores: TokenScores
    of_prompt: bool = False
    index: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds: `queue` in admission, `load` making the adapter resident, the others since arrival."""

    queue_ms: float
    load_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of answer `index`: 'stop' or 'length', token counts, timings."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    index: int = 0


Event = Started | Text | Scores | Finished


@dataclass(slots=True)
class Opened:
    """A request under way: it holds its place and its adapter until the block of `Generation.open` ends.

    Attributes:
        tenant: whose prefix cache may be shared with it.
        route: how the answer is made.
        lora: what the engine takes; None is the base.
        template: the chat template that the adapter was trained with; None for the base.
        load_ms: what making the adapter resident took.
        arrived: monotonic seconds.
        watch: is told what happens to it.
        admitted: its place, where what it takes is charged.
        completion_tokens: of all its answers.
        first_token: monotonic seconds; 0 before there is one.
    """

    tenant: str
    route: Route
    lora: LoraRef | None
    template: str | None
    load_ms: float
    arrived: float
    watch: Watch
    admitted: Admitted
    completion_tokens: int = 0
    first_token: float = 0.0

    @property
    def request_id(self) -> str:
        """Names it in the engine, towards the caller and in the log."""
        return self.watch.id

    @property
    def version(self) -> str:
        """Digest; empty for the base."""
        return self.watch.version

    @property
    def tier(self) -> Tier | None:
        """Where the adapter was found."""
        return self.watch.tier

    @property
    def prompt_tokens(self) -> int:
        return self.watch.prompt_tokens

    def prompted(self, tokens: int) -> None:
        """Reports the length of a prompt, before it goes to the engine."""
        self.watch.prompt_tokens += tokens
        self.admitted.rendered(self.watch.prompt_tokens)

    def answered(self, tokens: int, visible: bool = True, finish_reason: str | None = None) -> None:
        """Reports tokens of an answer as they come; not `visible` while they make no text yet."""
        if visible and not self.first_token:
            self.first_token = time.monotonic()
        self.completion_tokens += tokens
        self.watch.produced(tokens)
        self.admitted.served(tokens)
        if finish_reason:
            self.watch.finish_reason = finish_reason

    def failed(self, error: BaseException) -> None:
        """Reports what ended it, where the block itself ends without an error."""
        self.watch.failed(error)

    def started(self) -> Started:
        return Started(self.request_id, self.version, self.route, self.tier)

    def timings(self) -> Timings:
        now = time.monotonic()
        first = (self.first_token - self.arrived) * 1e3
        return Timings(self.admitted.queue_ms, self.load_ms, first, (now - self.arrived) * 1e3)


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Checked before anything is tokenized."""

    max_bytes: int
    max_messages: int


class Generation:
    """Runs requests.

    Args:
        router: what a model text means.
        residency: where adapters are.
        engine: what generates.
        limits: of prompts.
        admission: who may run.
        observer: is told what each request does.
    """

    def __init__(
        self,
        router: Router,
        residency: Residency,
        engine: Engine,
        limits: PromptLimits,
        admission: Admission,
        observer: Observer = NOBODY_WATCHES,
    ) -> None:
        self._router, self._residency, self._engine, self._limits = router, residency, engine, limits
        self._admission, self._size, self._observer = admission, PromptSize(), observer
        self._running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Requests under way."""
        return self._running

    async def drain(self, seconds: float) -> bool:
        """Takes no new requests and waits for those in flight; False when some are left after `seconds`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return self._running == 0

    @contextlib.asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Opened]:
        """Finds what a request runs on, waits for its turn, and keeps both inside the block; both transports go through here.

        Raises:
            GraftError: of routing, admission or residency; Draining once the service stops.
        """
        arrived = time.monotonic()
        with Watch(self._observer, call.tenant, adapter_of(call.model)) as watch:
            if self._draining:
                raise Draining("the service is stopping; send the request again, another one will take it")
            self._running += 1
            self._idle.clear()
            try:
                async with contextlib.AsyncExitStack() as held:
                    opened = await self._open(call, watch, arrived, held)
                    with watch.stage(Stage.GENERATE):
                        yield opened
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

    async def _open(self, call: Call, watch: Watch, arrived: float, held: contextlib.AsyncExitStack) -> Opened:
        with watch.stage(Stage.RESOLVE):
            async with within(call.deadline, "the model's name was looked up"):
                manifest = await self._router.resolve(call.owner or call.tenant, call.model)
        watch.version = manifest.version if manifest else ""
        with watch.stage(Stage.QUEUE):
            admitted = await held.enter_async_context(self._admission.admit(self._wish(call, manifest)))
        # Inside the admission, so that a request which waits holds no adapter, and loading is not counted as waiting.
        lease = None
        if manifest:
            with watch.stage(Stage.LOAD):
                async with within(call.deadline, "its adapter was loaded"):
                    lease = await held.enter_async_context(self._residency.lease(manifest))
        admitted.loaded()
        route, watch.tier = Route.SWAPPED if lease else Route.BASE, lease.tier if lease else None
        watch.route = route.value
        return Opened(
            tenant=call.tenant,
            route=route,
            lora=lease.lora if lease else None,
            template=lease.template if lease else None,
            load_ms=lease.load_ms if lease else 0.0,
            arrived=arrived,
            watch=watch,
            admitted=admitted,
        )

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Streams a request's events: Started with the first text, Text pieces, and Finished for each answer.

        Raises:
            GraftError: of routing, residency or the engine; InvalidRequest names the field.
        """
        try:
            prompt = self._check(call.prompt)
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
            opened.prompted(len(rendered.token_ids))
            self._size.learn(prompt, len(rendered.token_ids))
            deltas = self._engine.generate(opened.request_id, rendered, sampling, lora=opened.lora, tenant=call.tenant)
            events = _events(opened, deltas, call.deadline)
            # Closed before the lease is given back: nothing may run on an adapter that is.
            async with contextlib.aclosing(deltas), contextlib.aclosing(events):
                async for event in events:
                    yield event

    def _wish(self, call: Call, manifest: VersionManifest | None) -> Wish:
        name = _adapter_name(manifest) if manifest else None
        return Wish(
            tenant=call.tenant if call.account is None else call.account,
            adapter=name,
            # The template lies in the adapter's folder, which may not be here yet: estimated now, corrected once rendered.
            input_tokens=self._size.tokens(call.prompt) if call.prompt else self._size.of_bytes(call.prompt_bytes),
            loads=name is not None and self._engine.tier(name) is None,
            deadline=call.deadline,
        )

    def _check(self, prompt: Prompt | None) -> Prompt:
        """Returns a prompt that is within the limits; raises InvalidRequest for another one."""
        if prompt is None:
            raise InvalidRequest("the prompt is missing")
        if isinstance(prompt, TokenIds):
            if not prompt.ids:
                raise InvalidRequest("tokens is empty")
            return prompt  # too many of them are the engine's to refuse
        messages = () if isinstance(prompt, str) else prompt
        size = text_bytes(prompt)
        if size > self._limits.max_bytes:
            raise InvalidRequest(f"the prompt has {size} bytes, at most {self._limits.max_bytes} are taken")
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidRequest("prompt is empty")
            return prompt
        if not 1 <= len(messages) <= self._limits.max_messages:
            raise InvalidRequest(f"chat has {len(messages)} messages; allowed: 1 to {self._limits.max_messages}")
        for number, message in enumerate(messages):
            if message.role not in ROLES:
                raise InvalidRequest(f"chat.messages[{number}].role is unknown; allowed: {', '.join(sorted(ROLES))}")
        return prompt


async def _next(deltas: AsyncGenerator[Delta, None], deadline: float | None) -> Delta | None:
    """The engine's next piece; None at the end."""
    async with within(deadline, "the answer was generated"):
        return await anext(deltas, None)


async def _events(
    opened: Opened, deltas: AsyncGenerator[Delta, None], deadline: float | None
) -> AsyncGenerator[Event, None]:
    """What a caller sees of the engine's pieces."""
    tokens: dict[int, int] = {}
    while (delta := await _next(deltas, deadline)) is not None:
        tokens[delta.index] = tokens.get(delta.index, 0) + delta.tokens
        began = bool(opened.first_token)
        visible = bool(delta.text or delta.finish_reason or delta.scores or delta.prompt_scores)
        opened.answered(delta.tokens, visible, delta.finish_reason)
        if opened.first_token and not began:
            yield opened.started()
        for event in _pieces(delta):
            yield event
        if delta.finish_reason:
            counts = opened.prompt_tokens, tokens[delta.index]
            yield Finished(delta.finish_reason, *counts, opened.timings(), delta.index)


def _pieces(delta: Delta) -> Iterator[Event]:
    """The prompt's scores come before any text, a piece's own after it."""
    if delta.prompt_scores is not None:
        yield Scores(delta.prompt_scores, of_prompt=True)
    if delta.text:
        yield Text(delta.text, delta.index)
    if delta.scores is not None and delta.scores.token_ids:
        yield Scores(delta.scores, index=delta.index)


def _adapter_name(manifest: VersionManifest) -> str:
    """As residency and the engine call it."""
    return f"{manifest.tenant}/{manifest.adapter}@{manifest.version}"
