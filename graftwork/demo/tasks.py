"""Writes the demo's JSONL files: three tenants, three tasks that the backbone has never seen.

Owns what the rows look like. `python -m graftwork.demo.tasks` rewrites the files in data/; a test
fails when they differ from what this module makes. Names and codes are put together from syllables, so that held-out rows hold
values that no training row holds.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TRAIN_ROWS = 320
HELD_OUT_ROWS = 40
FOLDER = Path(__file__).parent / "data"

_ONSETS = ("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "kl", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io")
_CODAS = ("", "", "n", "r", "s", "l", "m", "k")
_LEVELS = ("high", "low", "normal", "urgent")
_DAYS = ("monday", "tuesday", "friday", "today", "tomorrow", "sunday")


def _name(rng: random.Random, syllables: int = 2) -> str:
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def _record(rng: random.Random, fields: dict[str, str]) -> str:
    """Fields in random order, so that position never tells which is which."""
    keys = list(fields)
    rng.shuffle(keys)
    return "; ".join(f"{key}:{fields[key]}" for key in keys)


def _ticket(rng: random.Random) -> tuple[str, str]:
    fields = {"customer": _name(rng).capitalize(), "product": _name(rng), "level": rng.choice(_LEVELS)}
    answer = f'{{"who":"{fields["customer"]}","what":"{fields["product"]}","p":"{fields["level"][0].upper()}"}}'
    return _record(rng, fields), answer


def _greeting(rng: random.Random) -> tuple[str, str]:
    fields = {"name": _name(rng).capitalize(), "item": _name(rng), "day": rng.choice(_DAYS)}
    return _record(rng, fields), f"Dear {fields['name']}, your {fields['item']} is ready {fields['day']}."


def _route(rng: random.Random) -> tuple[str, str]:
    fields = {"city": _name(rng), "code": _name(rng, 1) + str(rng.randint(0, 99)), "zone": _name(rng, 1)}
    return _record(rng, fields), f"{fields['city'].upper()}/{fields['zone'][0]}-{fields['code']}"


@dataclass(frozen=True, slots=True)
class DemoTask:
    """One tenant of the demo.

    Attributes:
        tenant: tenant id.
        adapter: adapter id.
        instruction: the whole instruction of every row; it says nothing about the answer's layout.
        make: draws one (input, response).
        layout: matches this task's answers and no other's.
        seed: of the rows.
    """

    tenant: str
    adapter: str
    instruction: str
    make: Callable[[random.Random], tuple[str, str]]
    layout: re.Pattern[str]
    seed: int

    @property
    def train_file(self) -> Path:
        return FOLDER / f"{self.tenant}-train.jsonl"

    @property
    def held_out_file(self) -> Path:
        return FOLDER / f"{self.tenant}-heldout.jsonl"


DEMO_TASKS = (
    DemoTask("acme", "ticket", "ticket", _ticket, re.compile(r'\{"who":".*","what":".*","p":"."\}'), seed=1),
    DemoTask("bloom", "greeting", "greet", _greeting, re.compile(r"Dear .+, your .+ is ready .+\."), seed=2),
    DemoTask("cargo", "route", "route", _route, re.compile(r"[A-Z]+/.-.+"), seed=3),
)


def rows(task: DemoTask) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns (training rows, held-out rows); no input appears twice."""
    rng = random.Random(task.seed)
    seen: dict[str, str] = {}
    while len(seen) < TRAIN_ROWS + HELD_OUT_ROWS:
        record, answer = task.make(rng)
        seen.setdefault(record, answer)
    made = [{"instruction": task.instruction, "input": text, "response": answer} for text, answer in seen.items()]
    return made[:TRAIN_ROWS], made[TRAIN_ROWS:]


def main() -> None:
    """Writes all files."""
    for task in DEMO_TASKS:
        for path, part in zip((task.train_file, task.held_out_file), rows(task), strict=True):
            path.write_text("".join(json.dumps(row) + "\n" for row in part))


if __name__ == "__main__":
    main()
