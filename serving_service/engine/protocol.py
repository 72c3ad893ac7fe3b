"""What the core asks of an engine, and the plain types that cross the border.

Owns the protocol and its errors. Imports nothing heavy, so that the core can depend on it. Does not own any engine:
`vllm_engine` is the real one.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from graftwork.errors import ErrorCode, GraftError


class EngineError(GraftError):
    """Base of what an engine raises on purpose."""


class EngineUnavailable(EngineError):
    """The engine is loading, stopping or dead."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE


class AdapterRefused(EngineError):
    """The engine read the adapter's files and would not take them (rank, shapes, kind)."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class PromptRefused(EngineError):
    """The prompt cannot be rendered, or does not fit the model."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class ParametersRefused(EngineError):
    """The engine would not take a parameter, or cannot follow a constraint.

    Attributes:
        field: which one, as the caller knows it; empty when the engine does not say.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INVALID

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Tier(StrEnum):
    """Where an adapter lies, slowest first."""

    STORE = "store"
    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class LoraRef:
    """An adapter version as the engine knows it.

    Attributes:
        name: `tenant/adapter@digest`; the engine's prefix cache is keyed by name and path, so both name the content.
        path: folder with the PEFT files; ends in the name.
    """

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that was tokenized already."""

    ids: tuple[int, ...]


Prompt = str | tuple[Message, ...] | TokenIds
"""Text as it is, a chat, or tokens as they are."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the engine takes it.

    Attributes:
        token_ids: the prompt.
        stop: texts that end the answer and are left out of it.
        stop_token_ids: the same as tokens; a special token never shows up as text.
    """

    token_ids: list[int]
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


class ConstraintKind(StrEnum):
    """What an answer is held to."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICES = "choices"


@dataclass(frozen=True, slots=True)
class Constraint:
    """What every answer must be; checked by `core.constraints`.

    Attributes:
        kind: how to read the rest.
        text: the JSON schema, or the regular expression.
        choices: the texts to choose from.
    """

    kind: ConstraintKind
    text: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to pick tokens; checked by `core.sampling`.

    Attributes:
        temperature: 0 is greedy.
        top_p: in (0, 1].
        top_k: 0 is off.
        seed: None draws anew each time.
        max_tokens: most tokens of the answer.
        stop: texts that end the answer and are left out of it.
        logprobs: also say how probable the answer's tokens were.
        prompt_logprobs: also say how probable the prompt's tokens were.
        top_logprobs: also say it of so many likeliest tokens at each place of the answer.
        n: answers to one prompt.
        frequency_penalty, presence_penalty: against tokens that the answer has already; 0 is off.
        repetition_penalty: the same for prompt and answer, as a factor; 1 is off.
        min_p: leaves out tokens less probable than this share of the likeliest one's probability; 0 is off.
        ignore_eos: goes on after the model's end token.
        constraint: what the answer must be.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    prompt_logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    ignore_eos: bool = False
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Natural logarithms of the probabilities that the model gave some tokens, each given all before it.

    `top` has, for each place, the likeliest tokens and theirs, best first; empty when not asked for.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer.

    Attributes:
        text: may be empty while characters or stop texts are incomplete.
        tokens: how many tokens this piece took.
        finish_reason: 'stop' or 'length' on the last piece, else None.
        scores: of the piece's tokens, when asked for.
        prompt_scores: of the prompt's tokens from the second on, on the first piece, when asked for.
        index: which of the `Sampling.n` answers.
    """

    text: str
    tokens: int
    finish_reason: str | None = None
    scores: TokenScores | None = None
    prompt_scores: TokenScores | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a started engine runs.

    Attributes:
        engine: its name and version.
        max_loras: distinct adapters in one batch.
        max_lora_rank: largest rank that it takes.
        max_model_len: prompt and answer together, in tokens.
        dtype: of weights and activations.
        start_seconds: how long loading took.
    """

    engine: str
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    dtype: str
    start_seconds: float


class AdapterSlots(Protocol):
    """The part of an engine that residency drives: the tiers above the disk."""

    def tier(self, name: str) -> Tier | None:
        """Returns HOST or DEVICE for an adapter that the engine holds, else None; from memory, without asking it."""
        ...

    def slot(self, name: str) -> int | None:
        """Returns the number of the device slot that an adapter is in, from 0; None where `tier` is not DEVICE."""
        ...

    def device_ms(self, name: str) -> float:
        """Returns the milliseconds that an adapter's last way from host memory into a slot took; 0 where there was none."""
        ...

    def watch_slots(self, told: Callable[[float], None]) -> None:
        """Has `told` called with the milliseconds of each adapter's way into a slot, from now on."""
        ...

    async def load(self, lora: LoraRef) -> int:
        """Brings an adapter into host memory, reading its folder, without holding up requests that are being answered; and
        into a slot when one is free or idle. Nothing to do when it is held.

        Returns:
            Bytes of host memory that it takes.

        Raises:
            AdapterRefused: the engine would not take it. EngineUnavailable: it is not running.
        """
        ...

    def loading(self, size: int) -> AbstractAsyncContextManager[None]:
        """Covers the reading and checking of an adapter of so many bytes: meanwhile the engine leaves a core to it, where it computes
        on cores. A large one begins when the engine's step under way has ended."""
        ...

    async def unload(self, name: str) -> None:
        """Frees the adapter's slot, its host copy and its id; nothing to do when it is not held.

        The caller guarantees that no request uses it.
        """
        ...

    async def refresh(self) -> None:
        """Asks the engine which adapters it holds, so that `tier` answers with the truth."""
        ...


class Engine(AdapterSlots, Protocol):
    """A running model with adapters."""

    async def start(self) -> EngineInfo:
        """Loads the model; takes seconds to minutes without blocking the event loop."""
        ...

    async def stop(self) -> None:
        """Ends all processes of the engine; idempotent."""
        ...

    async def died(self) -> str:
        """Waits until the engine ends by itself and returns why. Never returns after `stop`."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether calls can succeed now."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What runs. Raises EngineUnavailable before `start` has ended."""
        ...

    async def render(self, prompt: Prompt, template: str | None) -> Rendered:
        """Turns text (as it is) or a chat (through `template`, else the tokenizer's, else the project's) into tokens; tokens
        stay as they are.

        Raises:
            PromptRefused: it cannot be rendered, is empty, or is longer than the model takes.
        """
        ...

    def generate(
        self,
        request_id: str,
        rendered: Rendered,
        sampling: Sampling,
        *,
        lora: LoraRef | None,
        tenant: str,
        newcomer: bool = False,
        crowds: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Streams an answer; closing the iterator stops generating.

        Args:
            request_id: unique among running requests.
            rendered: the prompt.
            sampling: how to pick tokens.
            lora: a loaded adapter, leased for as long as the iterator runs; None is the base.
            tenant: whose prefix cache may be shared with this request.
            newcomer: its prompt goes before those of others (`core.admission.Admitted.newcomer`).
            crowds: asked now and then: whether it is of a flood, and its tokens may come far apart; None: each is told by itself.

        Raises:
            EngineUnavailable: the engine is dead or stopping.
            ParametersRefused: it would not take the parameters.
        """
        ...


NEWCOMER = -1
"""A newcomer's priority in vLLM, whose own order (first come, first served) does not look at it; ours does."""
