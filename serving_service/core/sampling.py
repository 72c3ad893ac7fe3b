"""Checks sampling parameters and fills in their defaults (the ones that the proto's comments promise).

Owns the limits. Does not own what an engine makes of them.
"""

import math
from dataclasses import dataclass

from serving_service.core.errors import InvalidRequest
from serving_service.engine.protocol import Sampling

MAX_TEMPERATURE = 10.0
MAX_TOP_K = 1_000_000
MAX_STOPS = 16
MAX_STOP_CHARS = 256


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


def resolve_sampling(wish: SamplingWish, max_model_len: int) -> Sampling:
    """Returns the parameters to run with.

    Args:
        wish: what the caller asked for.
        max_model_len: the model's limit in tokens, for prompt and answer together.

    Raises:
        InvalidRequest: a value outside its limits; the message names the field and the limits.
    """
    defaults = Sampling()
    temperature = defaults.temperature if wish.temperature is None else wish.temperature
    top_p = defaults.top_p if wish.top_p is None else wish.top_p
    top_k = defaults.top_k if wish.top_k is None else wish.top_k
    max_tokens = min(defaults.max_tokens, max_model_len) if wish.max_tokens is None else wish.max_tokens
    # Written so that NaN fails: every comparison with it is false.
    _need("temperature", temperature, 0 <= temperature <= MAX_TEMPERATURE, f"0 (greedy) to {MAX_TEMPERATURE:g}")
    _need("top_p", top_p, 0 < top_p <= 1 and math.isfinite(top_p), "above 0, at most 1")
    _need("top_k", top_k, 0 <= top_k <= MAX_TOP_K, f"0 (off) to {MAX_TOP_K}")
    _need("max_tokens", max_tokens, 1 <= max_tokens <= max_model_len, f"1 to {max_model_len} (the model's limit)")
    _need("stop", f"{len(wish.stop)} texts", len(wish.stop) <= MAX_STOPS, f"at most {MAX_STOPS} texts")
    for text in wish.stop:
        # The value stays out of the message: it may be the tenant's text.
        _need("stop", f"a text of {len(text)} characters", 1 <= len(text) <= MAX_STOP_CHARS, f"1 to {MAX_STOP_CHARS}")
    return Sampling(temperature, top_p, top_k, wish.seed, max_tokens, wish.stop, wish.logprobs, wish.prompt_logprobs)


def _need(field: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InvalidRequest(f"sampling.{field} is {value}; allowed: {allowed}")
