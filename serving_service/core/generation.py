"""One request from name to last token: resolve, lease, render, generate, measure.

Owns the order and the timings. Does not own the parts. Closing the stream (a cancelled call) stops generating and gives
the lease back.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from serving_service.core.errors import Draining, InvalidRequest
from serving_service.core.residency import Lease, Residency
from serving_service.core.routing import Router
from serving_service.core.sampling import SamplingWish, resolve_sampling
from serving_service.engine.protocol import Delta, Engine, Prompt, Tier, TokenIds, TokenScores

ROLES = frozenset({"system", "user", "assistant"})
TEMPLATE_FILE = "chat_template.jinja"
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
        prompt: text as it is, a chat, or tokens.
        sampling: what the caller asked for.
        owner: below which tenant `model` is looked up; empty is `tenant`, and another one where the caller may not look.
    """

    tenant: str
    model: str
    prompt: Prompt
    sampling: SamplingWish = field(default_factory=SamplingWish)
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """Sent once, before everything else. `version` is empty and `tier` None for the base."""

    request_id: str
    version: str
    route: Route
    tier: Tier | None


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece."""

    text: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of the prompt's tokens from the second on, or of the answer's next ones; only when asked for."""

    scores: TokenScores
    of_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds: `queue` in admission, `load` making the adapter resident, the others since arrival."""

    queue_ms: float
    load_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end: 'stop' or 'length', token counts, timings."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings


Event = Started | Text | Scores | Finished


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
    """

    def __init__(self, router: Router, residency: Residency, engine: Engine, limits: PromptLimits) -> None:
        self._router, self._residency, self._engine, self._limits = router, residency, engine, limits
        self._running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Takes no new requests and waits for those in flight; False when some are left after `seconds`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return self._running == 0

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Streams a request's events: Started with the first text, Text pieces, Finished.

        Raises:
            GraftError: of routing, residency or the engine; InvalidRequest names the field.
        """
        if self._draining:
            raise Draining("the service is stopping; send the request again, another one will take it")
        self._running += 1
        self._idle.clear()
        try:
            async with contextlib.aclosing(self._run(call)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _run(self, call: Call) -> AsyncGenerator[Event, None]:
        arrived = time.monotonic()
        self._check(call.prompt)
        sampling = resolve_sampling(call.sampling, self._engine.info.max_model_len)
        manifest = await self._router.resolve(call.owner or call.tenant, call.model)
        async with contextlib.AsyncExitStack() as held:
            lease = await held.enter_async_context(self._residency.lease(manifest)) if manifest else None
            rendered = await self._engine.render(call.prompt, await _template(lease))
            if sampling.prompt_logprobs and len(rendered.token_ids) > MAX_SCORED_PROMPT:
                raise InvalidRequest(
                    f"prompt_logprobs is for prompts of at most {MAX_SCORED_PROMPT} tokens; this one has "
                    f"{len(rendered.token_ids)}"
                )
            request_id = uuid.uuid4().hex
            deltas = self._engine.generate(
                request_id, rendered, sampling, lora=lease.lora if lease else None, tenant=call.tenant
            )
            started = Started(
                request_id,
                manifest.version if manifest else "",
                Route.SWAPPED if lease else Route.BASE,
                lease.tier if lease else None,
            )
            first, tokens, reason = 0.0, 0, ""
            # Entered after the lease, so closed before it: nothing may run on an adapter that is given back.
            async for delta in await held.enter_async_context(contextlib.aclosing(deltas)):
                tokens += delta.tokens
                reason = delta.finish_reason or reason
                if not first and (delta.text or delta.finish_reason or delta.scores or delta.prompt_scores):
                    first = time.monotonic()
                    yield started
                for event in _pieces(delta):
                    yield event
            now = time.monotonic()
            load_ms = lease.load_ms if lease else 0.0
            timings = Timings(0.0, load_ms, (first - arrived) * 1e3, (now - arrived) * 1e3)
            yield Finished(reason, len(rendered.token_ids), tokens, timings)

    def _check(self, prompt: Prompt) -> None:
        if isinstance(prompt, TokenIds):
            if not prompt.ids:
                raise InvalidRequest("tokens is empty")
            return  # too many of them are the engine's to refuse
        messages = () if isinstance(prompt, str) else prompt
        texts = [prompt] if isinstance(prompt, str) else [message.content for message in messages]
        size = sum(len(text.encode()) for text in texts)
        if size > self._limits.max_bytes:
            raise InvalidRequest(f"the prompt has {size} bytes, at most {self._limits.max_bytes} are taken")
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidRequest("prompt is empty")
            return
        if not 1 <= len(messages) <= self._limits.max_messages:
            raise InvalidRequest(f"chat has {len(messages)} messages; allowed: 1 to {self._limits.max_messages}")
        for number, message in enumerate(messages):
            if message.role not in ROLES:
                raise InvalidRequest(f"chat.messages[{number}].role is unknown; allowed: {', '.join(sorted(ROLES))}")


def _pieces(delta: Delta) -> Iterator[Event]:
    """What a caller sees of one delta: the prompt's scores come before any text, a piece's own after it."""
    if delta.prompt_scores is not None:
        yield Scores(delta.prompt_scores, of_prompt=True)
    if delta.text:
        yield Text(delta.text)
    if delta.scores is not None and delta.scores.token_ids:
        yield Scores(delta.scores)


async def _template(lease: Lease | None) -> str | None:
    """The template that the adapter was trained with; None for the base."""
    if lease is None:
        return None
    return await asyncio.to_thread((lease.lora.path / TEMPLATE_FILE).read_text)
