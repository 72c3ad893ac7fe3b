"""What sharing one backbone costs: engines with LoRA in turn with the bare one, and their figures.

Owns the order of rounds and their ratios. Each round of ours is between two of the bare one with the same load, and its ratio is to
the mean of the two: neighbours meet the same machine, and what drifts slowly cancels. Stock's rounds follow one of the bare
engine's each, with half the requests.
"""

import random
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.multi_lora.engines import EngineProcess
from benchmarks.report import Spread

Cell = tuple[str, int]
"""Engine, and how many adapters its requests use."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of an engine with LoRA, and the bare engine's beside it.

    Attributes:
        seconds: it took.
        bare: the bare engine took; the mean where it has two.
    """

    seconds: float
    bare: float


Turns = dict[Cell, list[Turn]]


def turns(
    engines: dict[str, EngineProcess], load: tuple[int, int], vocabulary: int, counts: list[int], asked: Any
) -> Turns:
    """Runs the rounds of one load, prompt and answer in tokens."""
    prompt, answer = load
    draw = random.Random(0)
    ours = [("ours", count) for count in counts]
    stock = [("stock", count) for count in counts if count] if "stock" in engines else []

    def run(cell: Cell, requests: int, length: int) -> float:
        prompts = [[draw.randrange(10, vocabulary) for _ in range(prompt)] for _ in range(requests)]
        return engines[cell[0]].seconds(prompts, length, cell[1])

    for cell in [("bare", 0), *ours, *stock]:
        run(cell, 2, min(answer, 2))  # slots, allocators, caches
    found: Turns = {cell: [] for cell in (*ours, *stock)}
    before = run(("bare", 0), asked.requests, answer)
    for number in range(asked.rounds):
        for cell in ours if number % 2 == 0 else reversed(ours):
            seconds = run(cell, asked.requests, answer)
            after = run(("bare", 0), asked.requests, answer)
            found[cell].append(Turn(seconds, (before + after) / 2))
            told = f"{seconds:.2f} s, bare {before:.2f} and {after:.2f} s"
            print(f"{prompt}+{answer}, round {number + 1}, {cell[0]} with {cell[1]}: {told}", file=sys.stderr)
            before = after
    for _ in range(asked.stock_rounds):
        for cell in stock:
            # Half the requests, since it takes many times as long.
            before = run(("bare", 0), asked.requests // 2, answer)
            seconds = run(cell, asked.requests // 2, answer)
            found[cell].append(Turn(seconds, before))
            print(f"{prompt}+{answer}, {cell[0]} with {cell[1]}: {seconds:.2f} s, bare {before:.2f} s", file=sys.stderr)
    return found


def figures(found: dict[str, Turns]) -> dict[str, Any]:
    """By load: `ours_over_base` and `stock_over_base` by number of adapters; and the worse load of ours."""
    made: dict[str, Any] = {}
    for load, cells in found.items():
        beside: dict[str, dict[str, Spread]] = {}
        for (side, count), rounds in cells.items():
            beside.setdefault(f"{side}_over_base", {})[str(count)] = ratios(rounds)
        made[load] = beside
    ours = [beside["ours_over_base"] for beside in made.values()]
    made["ours_over_base"] = {count: min(one[count].median for one in ours) for count in ours[0]}
    return made


def ratios(rounds: list[Turn]) -> Spread:
    return Spread.of([turn.bare / turn.seconds for turn in rounds])


def rows(found: dict[str, Turns], requests: int, loads: dict[str, tuple[int, int]]) -> list[list[object]]:
    """Of the table."""
    made: list[list[object]] = []
    for load, cells in found.items():
        tokens = requests * (loads[load][0] if load == "prefill" else loads[load][1])
        first = next(iter(cells.values()))
        made.append([load, "bare", 0, Spread.of([tokens / turn.bare for turn in first]), ""])
        for (side, count), rounds in cells.items():
            sent = tokens if side == "ours" else tokens * (requests // 2) / requests
            speed = Spread.of([sent / turn.seconds for turn in rounds])
            made.append([load, side, count, speed, ratios(rounds)])
    return made
