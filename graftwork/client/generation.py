"""A generated answer, put together from the stream's pieces."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from graftwork.v1 import serving_pb2 as pb


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same prompt."""

    text: str
    finish_reason: str
    completion_tokens: int
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; with `n` above 1 the first one, and all of them in `choices`.

    Attributes:
        text: what the model wrote.
        version: digest of the adapter version; empty for the base.
        route: base, swapped or merged.
        tier: where the adapter was found: store, disk, host or device; empty for the base.
        finish_reason: stop or length.
        prompt_tokens, completion_tokens: counts.
        queue_ms, load_ms, first_token_ms, total_ms: milliseconds, as the service measured them.
        logprobs: of the answer's tokens, when asked for.
        prompt_logprobs: of the prompt's tokens from the second on, when asked for.
        choices: every answer, in the order of their numbers.
    """

    text: str
    version: str
    route: str
    tier: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    load_ms: float
    first_token_ms: float
    total_ms: float
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """An answer while it comes."""

    text: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: pb.GenerateFinished = field(default_factory=pb.GenerateFinished)

    def close(self) -> Choice:
        finished = self.finished
        return Choice("".join(self.text), finished.finish_reason, finished.usage.completion_tokens, self.logprobs)


def _name(enum_name: str, prefix: str) -> str:
    name = enum_name.removeprefix(prefix).lower()
    return "" if name == "unspecified" else name


def collect(pieces: Iterable[pb.GenerateResponse]) -> Answer:
    """Reads a stream to its end."""
    started, answers, prompt_logprobs = pb.GenerateStarted(), {0: _Open()}, list[float]()
    for piece in pieces:
        answer = answers.setdefault(piece.index, _Open())
        match piece.WhichOneof("part"):
            case "started":
                started = piece.started
            case "text":
                answer.text.append(piece.text)
            case "scores" if piece.scores.of_prompt:
                prompt_logprobs += piece.scores.logprobs
            case "scores":
                answer.logprobs += piece.scores.logprobs
            case "finished":
                answer.finished = piece.finished
    first = answers[0].finished
    choices = [answers[index].close() for index in sorted(answers)]
    return Answer(
        text=choices[0].text,
        version=started.version,
        route=_name(pb.Route.Name(started.route), "ROUTE_"),
        tier=_name(pb.Tier.Name(started.tier), "TIER_"),
        finish_reason=first.finish_reason,
        prompt_tokens=first.usage.prompt_tokens,
        completion_tokens=first.usage.completion_tokens,
        queue_ms=first.timings.queue_ms,
        load_ms=first.timings.load_ms,
        first_token_ms=first.timings.first_token_ms,
        total_ms=first.timings.total_ms,
        logprobs=choices[0].logprobs,
        prompt_logprobs=prompt_logprobs,
        choices=choices,
    )
