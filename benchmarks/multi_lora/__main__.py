"""What sharing one backbone costs: our multi-LoRA beside a bare engine without LoRA, and beside stock vLLM's.

Three engines of the same vLLM on the same backbone of random weights, in processes of their own that stay up; they take
turns, in alternating order, and each load goes to an engine alone. `prefill` is 256 tokens in and 1 out, `decode` 8 in and
64 out; all requests of a load come at once, each with one of 0 (the base), 1 or 8 adapters of rank 16 on q_proj and v_proj.

`ours_over_base`: tokens a second over the bare engine's in the same round; median of the rounds; the lower one of both
loads where no load is named. Our engine has slots for the modules that the adapters change, stock for all. `stock_over_base`
likewise, in fewer rounds: it is slow on a CPU. `base_rows_on_lora_engine_over_bare`: requests of the base on our engine
with LoRA, the worse of both loads.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.multi_lora.engine import Task
from benchmarks.multi_lora.world import MODULES, RANK, World, make
from benchmarks.report import Spread, parser, show, write

LOADS = {"prefill": (256, 1), "decode": (8, 64)}
"""Tokens of a prompt and of an answer."""
GOALS = {
    "cpu": "goals: ours prefill 0.9 with 1 and 8 adapters, decode 0.75 and 0.6; base rows 0.97",
    "gpu": "goals: ours 0.95 with 8 adapters, 0.85 with 64; base rows 0.97",
}


def main() -> None:
    options = parser(__doc__)
    on_gpu = os.path.exists("/dev/nvidia0")
    options.add_argument("--shape", choices=("mini", "115m", "8b"), default="8b" if on_gpu else "115m")
    options.add_argument("--adapters", default="0,1,8,64" if on_gpu else "0,1,8", help="how many, each a column")
    options.add_argument("--slots", type=int, default=0, help="of adapters, on both sides (default: the most adapters)")
    options.add_argument("--requests", type=int, default=256 if on_gpu else 16, help="at once")
    options.add_argument("--rounds", type=int, default=3, help="default 3")
    options.add_argument("--stock-rounds", type=int, default=1, help="default 1; 0 leaves stock vLLM's LoRA out")
    options.add_argument("--loads", default="prefill,decode", help="default: both")
    asked = options.parse_args()
    if asked.slots and asked.slots < max(int(count) for count in asked.adapters.split(",")):
        options.error("--slots must be enough for the most --adapters: they are all used in one step")
    counts, loads = [int(count) for count in asked.adapters.split(",")], asked.loads.split(",")
    sides = ["bare", "ours", *(["stock"] if asked.stock_rounds else [])]
    with tempfile.TemporaryDirectory(prefix="graft-multi-lora-") as folder, ExitStack() as held:
        world = make(asked.shape, Path(folder), max(counts))
        engines = {
            side: held.enter_context(
                engine(_task(side, world, asked.slots or max(counts), asked.requests, on_gpu), Path(folder))
            )
            for side in sides
        }
        seconds = {load: _rounds(engines, load, world.vocabulary, counts, asked) for load in loads}
    _tell(seconds, "gpu" if on_gpu else "cpu", asked)


def _task(side: str, world: World, slots: int, requests: int, on_gpu: bool) -> Task:
    return Task(
        side,
        str(world.backbone),
        [] if side == "bare" else [str(one) for one in world.adapters],
        world.has_weights,
        slots,
        RANK,
        requests,
        max(sum(load) for load in LOADS.values()) + 1,
        0.28 if on_gpu else 0.0,
        list(MODULES),
    )


@contextmanager
def engine(task: Task, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """Starts an engine and waits for it; one after the other, since they look how much memory is free."""
    log = folder / f"{task.side}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.multi_lora.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        if _ask(process, asdict(task)) is None:
            raise SystemExit(f"the engine {task.side} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        print(f"{task.side} is up", file=sys.stderr)
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def _ask(process: "subprocess.Popen[str]", message: dict[str, Any]) -> dict[str, Any] | None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    return dict(json.loads(line)) if line else None


def _rounds(
    engines: "dict[str, subprocess.Popen[str]]", load: str, vocabulary: int, counts: list[int], asked: Any
) -> dict[tuple[str, int], list[float]]:
    """Seconds of each side and number of adapters, by round."""
    prompt, answer = LOADS[load]
    draw = random.Random(0)
    cells = [("bare", 0), *(("ours", count) for count in counts)]
    if "stock" in engines:
        cells += [("stock", count) for count in counts if count]
    seconds: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}

    def run(cell: tuple[str, int], requests: int, length: int) -> float:
        prompts = [[draw.randrange(10, vocabulary) for _ in range(prompt)] for _ in range(requests)]
        answered = _ask(engines[cell[0]], {"prompts": prompts, "answer": length, "adapters": cell[1]})
        if answered is None:
            raise SystemExit(f"the engine {cell[0]} died")
        return float(answered["seconds"])

    for cell in cells:
        run(cell, 2, min(answer, 2))  # slots, allocators, caches
    for number in range(asked.rounds):
        for cell in cells if number % 2 == 0 else reversed(cells):
            if cell[0] != "stock" or number < asked.stock_rounds:
                seconds[cell].append(run(cell, asked.requests, answer))
                print(f"{load}, round {number + 1}, {cell}: {seconds[cell][-1]:.2f} s", file=sys.stderr)
    return seconds


def _tell(seconds: dict[str, dict[tuple[str, int], list[float]]], device: str, asked: Any) -> None:
    figures: dict[str, Any] = {}
    rows = []
    for load, cells in seconds.items():
        tokens = asked.requests * (LOADS[load][0] if load == "prefill" else LOADS[load][1])
        found: dict[str, dict[str, Spread]] = {}
        for (side, count), took in cells.items():
            # Rounds of stock are the first ones: each is beside the bare engine's of the same round.
            ratios = Spread.of([base / one for base, one in zip(cells["bare", 0], took, strict=False)])
            found.setdefault(f"{side}_over_base", {})[str(count)] = ratios
            speed = Spread.of([tokens / one for one in took])
            rows.append([load, side, count, speed, ratios])
        del found["bare_over_base"]
        figures[load] = found
    ours = [found["ours_over_base"] for found in figures.values()]
    figures["ours_over_base"] = {count: min(found[count].median for found in ours) for count in ours[0]}
    base_rows = [found["0"].median for found in ours if "0" in found]
    columns = ("load", "engine", "adapters", "tokens/s", "over the bare engine")
    show(f"{asked.shape}, {asked.requests} at once, median (least to most) of the rounds", columns, rows)
    print(GOALS[device])
    setting = {name: value for name, value in vars(asked).items() if name != "json"}
    result: dict[str, Any] = {device: figures, "setting": setting}
    if base_rows:
        result["base_rows_on_lora_engine_over_bare"] = min(base_rows)
        print(f"base_rows_on_lora_engine_over_bare: {min(base_rows):.3f}")
    write(asked.json, result)


if __name__ == "__main__":
    main()
