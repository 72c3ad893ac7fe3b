"""Generation: what can be asked of a model, and the answer, whole or piece by piece.

Owns how a prompt and sampling options make a request, and how an answer is put together. Does not own the stream
(`blocking/streaming.py`, `asynchronous/streaming.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from graftwork.sdk.calls import Api, Stream
from graftwork.template import user_content
from graftwork.v1 import serving_pb2 as pb


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `role`: system, user or assistant."""

    role: str
    content: str


Prompt = str | Sequence[Message] | Sequence[int]
"""A user's turn, a chat, or token ids as they are."""


class Options(TypedDict, total=False):
    """Sampling and limits of one generation; what is left out is the service's default."""

    input: str
    """A row's input, joined to a `str` prompt as in training."""
    raw: bool
    """Send a `str` prompt as it is, without the chat template."""
    max_tokens: int
    """Of the answer; default 256."""
    temperature: float
    """Default 1.0; 0 is always the likeliest token."""
    top_p: float
    top_k: int
    min_p: float
    seed: int
    """The same seed, prompt and version give the same answer."""
    stop: Sequence[str]
    """Texts that end the answer."""
    n: int
    """Answers to one prompt, default 1; more need a temperature above 0."""
    frequency_penalty: float
    """-2 to 2, default 0."""
    presence_penalty: float
    """-2 to 2, default 0."""
    repetition_penalty: float
    """A factor, default 1."""
    ignore_eos: bool
    """Go on after the model's end token."""
    json_schema: str | Mapping[str, Any]
    """What every answer must be; at most one of these four."""
    json_object: bool
    regex: str
    choices: Sequence[str]
    logprobs: bool
    """Of the answer's tokens, natural logarithm, before any temperature."""
    prompt_logprobs: bool
    """Of the prompt's tokens, from the second on."""
    top_logprobs: int
    """Also of so many likeliest tokens at each place of the answer, at most 20; implies `logprobs`."""


_SAMPLING = frozenset(
    "max_tokens temperature top_p top_k min_p seed stop n frequency_penalty presence_penalty repetition_penalty ignore_eos "
    "json_object regex".split()
)
_SCORES = frozenset(("logprobs", "prompt_logprobs", "top_logprobs"))
_ONE_OF = ("json_schema", "json_object", "regex", "choices")


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and how likely the model found it.

    Attributes:
        token_id: in the backbone's vocabulary. logprob: natural logarithm.
        top: (token id, logprob) of the likeliest at this place, best first; only with `top_logprobs`.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a prompt. `finish_reason`: stop or length."""

    text: str
    finish_reason: str
    completion_tokens: int
    logprobs: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds, as the service measured them: waiting for admission, making the adapter resident, to the first text, in all."""

    queue_ms: float
    load_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        text: what the model wrote; with `n` above 1 the first of `choices`.
        request_id: names it in the service's log.
        version: digest of the adapter version that answered; empty for the base.
        route: base, swapped or merged. tier: where the adapter was found: store, disk, host or device; empty for the base.
        prompt_tokens: of the prompt.
        completion_tokens: of all choices together.
        timings: of the last choice to end.
        choices: in the order of their numbers.
        prompt_logprobs: from the prompt's second token on, when asked for.
    """

    text: str
    request_id: str
    version: str
    route: str
    tier: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    choices: tuple[Choice, ...]
    prompt_logprobs: tuple[TokenScore, ...] = ()

    @property
    def finish_reason(self) -> str:
        """Of the first choice: stop or length."""
        return self.choices[0].finish_reason


@dataclass(frozen=True, slots=True)
class Piece:
    """The next text of an answer; `index` says of which one, of `n`. `str(piece)` is its text."""

    text: str
    index: int = 0

    def __str__(self) -> str:
        return self.text


def generate(parent: str, model: str, prompt: Prompt, options: Options, timeout: float | None) -> Stream:
    """Makes the request.

    Raises:
        TypeError: an option that there is not.
        ValueError: options that exclude each other, or an empty prompt.
    """
    given: dict[str, Any] = dict(options)
    if unknown := given.keys() - Options.__annotations__.keys():
        raise TypeError(f"no such option of generate: {', '.join(sorted(unknown))}")
    if len(rules := [name for name in _ONE_OF if given.get(name)]) > 1:
        raise ValueError(f"{' and '.join(rules)} exclude each other; give one")
    sampling = pb.Sampling(**{name: value for name, value in given.items() if name in _SAMPLING and value is not None})
    if schema := given.get("json_schema"):
        sampling.json_schema = schema if isinstance(schema, str) else json.dumps(schema)
    if choices := given.get("choices"):
        sampling.choices.texts.extend(choices)
    request = pb.GenerateRequest(
        parent=parent,
        model=model,
        sampling=sampling,
        **{name: value for name, value in given.items() if name in _SCORES},
    )
    _set_prompt(request, prompt, given.get("input", ""), bool(given.get("raw")))
    return Stream(Api.SERVING, "Generate", request, timeout)


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt, input_text: str, raw: bool) -> None:
    if not isinstance(prompt, str):
        if input_text or raw:
            raise ValueError("input and raw go with a prompt that is a str")
        if not prompt:
            raise ValueError("the prompt is empty: give a text, messages or token ids")
        for item in prompt:
            if isinstance(item, Message):
                request.chat.messages.add(role=item.role, content=item.content)
            else:
                request.tokens.ids.append(item)
    elif raw:
        if input_text:
            raise ValueError("input is joined to a user's turn; with raw, put it into the prompt")
        request.prompt = prompt
    else:
        request.chat.messages.add(role="user", content=user_content(prompt, input_text))


@dataclass(slots=True)
class _Open:
    """A choice while it comes."""

    text: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    finished: pb.GenerateFinished = field(default_factory=pb.GenerateFinished)

    def close(self) -> Choice:
        usage = self.finished.usage
        return Choice("".join(self.text), self.finished.finish_reason, usage.completion_tokens, tuple(self.scores))


class Collector:
    """Puts an answer together from its messages."""

    def __init__(self) -> None:
        self._started = pb.GenerateStarted()
        self._open = {0: _Open()}
        self._prompt_scores: list[TokenScore] = []
        self._last = pb.GenerateFinished()

    def take(self, message: pb.GenerateResponse) -> Piece | None:
        """Takes the next message; returns its text, None for one that has none."""
        choice = self._open.setdefault(message.index, _Open())
        match message.WhichOneof("part"):
            case "started":
                self._started = message.started
            case "text":
                choice.text.append(message.text)
                return Piece(message.text, message.index)
            case "scores":
                (self._prompt_scores if message.scores.of_prompt else choice.scores).extend(_scores(message.scores))
            case "finished":
                choice.finished = self._last = message.finished
        return None

    def answer(self) -> Answer:
        """The answer as far as it came."""
        choices = tuple(self._open[index].close() for index in sorted(self._open))
        timings = self._last.timings
        return Answer(
            text=choices[0].text,
            request_id=self._started.request_id,
            version=self._started.version,
            route=_name(pb.Route.Name(self._started.route), "ROUTE_"),
            tier=_name(pb.Tier.Name(self._started.tier), "TIER_"),
            prompt_tokens=self._last.usage.prompt_tokens,
            completion_tokens=sum(choice.completion_tokens for choice in choices),
            timings=Timings(timings.queue_ms, timings.load_ms, timings.first_token_ms, timings.total_ms),
            choices=choices,
            prompt_logprobs=tuple(self._prompt_scores),
        )


def _scores(message: pb.TokenScores) -> list[TokenScore]:
    tops = [tuple(zip(top.token_ids, top.logprobs, strict=True)) for top in message.top]
    return [
        TokenScore(token, logprob, tops[place] if tops else ())
        for place, (token, logprob) in enumerate(zip(message.token_ids, message.logprobs, strict=True))
    ]


def _name(wire: str, prefix: str) -> str:
    name = wire.removeprefix(prefix).lower()
    return "" if name == "unspecified" else name
