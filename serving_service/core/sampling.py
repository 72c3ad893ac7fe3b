"""Checks sampling parameters and fills in their defaults (the ones that the proto's comments promise).

Owns the limits, for both transports. Does not own what an engine makes of them.
"""

import math
from dataclasses import dataclass

from serving_service.core.errors import InvalidRequest
from serving_service.engine.protocol import Constraint, Sampling

MAX_TEMPERATURE = 2.0  # vLLM's own
MAX_TOP_K = 1_000_000
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_N = 16
"""Answers to one prompt; each takes a place in the batch."""
MAX_TOP_LOGPROBS = 20
MAX_PENALTY = 2.0
MAX_REPETITION_PENALTY = 10.0


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """What the caller asked for; None where nothing was said."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    prompt_logprobs: bool = False
    top_logprobs: int | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None
    ignore_eos: bool = False
    constraint: Constraint | None = None


def resolve_sampling(wish: SamplingWish, max_model_len: int, prefix: str = "sampling.") -> Sampling:
    """Returns the parameters to run with.

    Args:
        wish: what the caller asked for.
        max_model_len: the model's limit in tokens, for prompt and answer together.
        prefix: what the caller writes before a field's name.

    Raises:
        InvalidRequest: a value outside its limits; the message names the field and the limits.
    """
    defaults = Sampling()
    need = _Need(prefix)
    temperature = defaults.temperature if wish.temperature is None else wish.temperature
    n = 1 if wish.n is None else wish.n
    top_k = defaults.top_k if wish.top_k is None else wish.top_k
    max_tokens = min(defaults.max_tokens, max_model_len) if wish.max_tokens is None else wish.max_tokens
    top_logprobs = wish.top_logprobs or 0
    need.within("temperature", temperature, 0, MAX_TEMPERATURE, "0 (greedy) to")
    need.that("top_k", top_k, 0 <= top_k <= MAX_TOP_K, f"0 (off) to {MAX_TOP_K}")
    need.that("max_tokens", max_tokens, 1 <= max_tokens <= max_model_len, f"1 to {max_model_len} (the model's limit)")
    need.that("n", n, 1 <= n <= MAX_N, f"1 to {MAX_N}")
    need.that("n", n, n == 1 or temperature > 0, "1 with temperature 0, where all answers would be the same")
    need.that("top_logprobs", top_logprobs, 0 <= top_logprobs <= MAX_TOP_LOGPROBS, f"0 (none) to {MAX_TOP_LOGPROBS}")
    need.stops(wish.stop)
    if wish.prompt_logprobs and n > 1:
        raise InvalidRequest(f"prompt_logprobs with {prefix}n {n}: ask for it with one answer", "prompt_logprobs")
    return Sampling(
        temperature=temperature,
        top_p=need.above_zero("top_p", wish.top_p, defaults.top_p, 1.0),
        top_k=top_k,
        seed=wish.seed,
        max_tokens=max_tokens,
        stop=wish.stop,
        logprobs=wish.logprobs or top_logprobs > 0,
        prompt_logprobs=wish.prompt_logprobs,
        top_logprobs=top_logprobs,
        n=n,
        frequency_penalty=need.within("frequency_penalty", wish.frequency_penalty or 0.0, -MAX_PENALTY, MAX_PENALTY),
        presence_penalty=need.within("presence_penalty", wish.presence_penalty or 0.0, -MAX_PENALTY, MAX_PENALTY),
        repetition_penalty=need.above_zero("repetition_penalty", wish.repetition_penalty, 1.0, MAX_REPETITION_PENALTY),
        min_p=need.within("min_p", wish.min_p or 0.0, 0, 1),
        ignore_eos=wish.ignore_eos,
        constraint=wish.constraint,
    )


@dataclass(frozen=True, slots=True)
class _Need:
    """The checks, written so that NaN fails: every comparison with it is false."""

    prefix: str

    def that(self, field: str, value: object, holds: bool, allowed: str) -> None:
        if not holds:
            raise InvalidRequest(f"{self.prefix}{field} is {value}; allowed: {allowed}", field)

    def within(self, field: str, value: float, least: float, most: float, words: str = "") -> float:
        self.that(field, value, least <= value <= most, f"{words or f'{least:g} to'} {most:g}")
        return value

    def above_zero(self, field: str, value: float | None, default: float, most: float) -> float:
        if value is None:
            return default
        self.that(field, value, 0 < value <= most and math.isfinite(value), f"above 0, at most {most:g}")
        return value

    def stops(self, stop: tuple[str, ...]) -> None:
        self.that("stop", f"{len(stop)} texts", len(stop) <= MAX_STOPS, f"at most {MAX_STOPS} texts")
        for text in stop:
            # The value stays out of the message: it may be the tenant's text.
            size = f"a text of {len(text)} characters"
            self.that("stop", size, 1 <= len(text) <= MAX_STOP_CHARS, f"1 to {MAX_STOP_CHARS}")
