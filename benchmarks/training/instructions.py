"""Rows with the length spread of a public instruction set, that the shipped backbone can learn.

Lengths are log-normal. databricks-dolly-15k, the public set of written (not generated) instructions, is 12.7 MB for 15,015
rows: 845 bytes, about 200 tokens a row; Alpaca's rows have about 90 tokens, OpenAssistant-Guanaco's about 530. MEAN is
Dolly's. SIGMA = 0.9 is a moderate spread: 90 % of the rows lie between 30 and 590 tokens, and 7 % are cut at 512. With one
token a character the sets' own text would be four times too long here, so the rows are made up and only lengths are theirs.
"""

import math
import random

MEAN = 200.0
"""Tokens of a row before the cut."""
SIGMA = 0.9
TEMPLATE_TOKENS = 8
"""Markers and newlines around a row."""
KEYS = ("name", "city", "code", "item", "level", "zone", "day", "owner", "state", "team", "shelf", "route")
LONGEST = 800
"""Tokens: of a longer row the cut at 512 would leave no response at all."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make(count: int, *, seed: int) -> list[dict[str, str]]:
    """Returns `count` instruction rows; the response lays the input's fields out anew, in the same order.

    Args:
        count: rows.
        seed: of all draws.
    """
    rng = random.Random(seed)
    median = MEAN / math.exp(SIGMA**2 / 2)
    return [_row(rng, min(LONGEST, median * math.exp(SIGMA * rng.gauss(0, 1)))) for _ in range(count)]


def _row(rng: random.Random, tokens: float) -> dict[str, str]:
    """Adds fields until the row has about `tokens` characters and markers."""
    record: list[str] = []
    response: list[str] = []
    length = TEMPLATE_TOKENS + len("relay")
    while not record or length < tokens:
        key, value = rng.choice(KEYS), "".join(rng.choices(LETTERS, k=rng.randint(3, 9)))
        record.append(f"{key}:{value}; ")
        response.append(f"[{value}]{key[0].upper()} ")
        length += len(record[-1]) + len(response[-1])
    return {"instruction": "relay", "input": "".join(record).strip(), "response": "".join(response).strip()}
