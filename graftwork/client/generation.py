"""A generated answer, put together from the stream's pieces."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from graftwork.v1 import serving_pb2 as pb


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

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


def _name(enum_name: str, prefix: str) -> str:
    name = enum_name.removeprefix(prefix).lower()
    return "" if name == "unspecified" else name


def collect(pieces: Iterable[pb.GenerateResponse]) -> Answer:
    """Reads a stream to its end."""
    started, finished, text = pb.GenerateStarted(), pb.GenerateFinished(), []
    scores: dict[bool, list[float]] = {True: [], False: []}
    for piece in pieces:
        match piece.WhichOneof("part"):
            case "started":
                started = piece.started
            case "text":
                text.append(piece.text)
            case "scores":
                scores[piece.scores.of_prompt] += piece.scores.logprobs
            case "finished":
                finished = piece.finished
    return Answer(
        text="".join(text),
        version=started.version,
        route=_name(pb.Route.Name(started.route), "ROUTE_"),
        tier=_name(pb.Tier.Name(started.tier), "TIER_"),
        finish_reason=finished.finish_reason,
        prompt_tokens=finished.usage.prompt_tokens,
        completion_tokens=finished.usage.completion_tokens,
        queue_ms=finished.timings.queue_ms,
        load_ms=finished.timings.load_ms,
        first_token_ms=finished.timings.first_token_ms,
        total_ms=finished.timings.total_ms,
        logprobs=scores[False],
        prompt_logprobs=scores[True],
    )
