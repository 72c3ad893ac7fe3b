"""What a caller sees of a request: its events, in the order in which they come.

Owns the values. Does not own how they come about (`generation`) or what they are on a wire (`api`).
"""

from dataclasses import dataclass
from enum import StrEnum

from serving_service.engine.protocol import Tier, TokenScores


class Route(StrEnum):
    """How the answer was made."""

    BASE = "base"
    SWAPPED = "swapped"
    MERGED = "merged"


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
