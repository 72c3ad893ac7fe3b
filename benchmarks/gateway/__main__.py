"""What our gRPC and HTTP cost: beside a bare AsyncLLM in the same layout of processes, and beside `vllm serve`, in one run.

All sides run the same vLLM with the same arguments on the same backbone of random weights, in processes of their own that
stay up; rounds go over them in alternating order, every prompt is new, and every side must bring every token. The load is
made by this process, which imports neither torch nor vLLM; towards the bare engine it goes over a Unix socket with a line a
piece, the least that any client and server need. `bare, no client` has the load inside the engine's front process.

`throughput_ratio` is the worse of our two transports' tokens a second over the bare engine's (goal: at least 0.97);
`ttft_p50_added_ms` the worse of what they add to its median time to the first token (goal: at most 3 ms on a CPU). The same
with `_vllm_serve` in its name is our HTTP beside `vllm serve`. A ratio is the median of the rounds' own ratios, of those in
which others used less than a tenth of the machine; of all where there is none. CPU time is told apart for the process in front
of the engine's, the engine's, and the load's. `cpu_ratio` is the ratio that follows from it where both cores are always busy, and is steady
where a machine's speed is not; what a delayed engine thread makes the other one wait is only in `throughput_ratio`.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from operator import sub, truediv
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import card
from benchmarks.gateway import backbones, sides
from benchmarks.gateway.load import Figures, Load, seeds
from benchmarks.report import Spread, parser, show, write

OURS = ("our gRPC", "our HTTP")
BARE, INSIDE, THEIRS = "bare engine", "bare, no client", "vllm serve"
COLUMNS = {"tokens_per_s": "tokens/s", "first_token_ms": "first token, ms", "front_us": "front, us/token"}
COLUMNS |= {"client_us": "client, us/token", "engine_us": "engine, us/token", "others": "others' share"}
QUIET = 0.1
"""Of the machine's CPU time that others may use in a round that counts."""


def main() -> None:
    options = parser(__doc__)
    shape = backbones.LARGE if card.has_card() else "mini"
    options.add_argument(
        "--shape", choices=sorted(backbones.NAMES), default=shape, help=f"of the backbone (default {shape})"
    )
    options.add_argument("--rounds", type=int, default=3, help="over all sides (default 3)")
    options.add_argument("--requests", type=int, default=32, help="of a throughput round (default 32)")
    options.add_argument("--concurrency", type=int, default=16, help="requests at once (default 16)")
    options.add_argument("--probes", type=int, default=9, help="single requests for the first token (default 9)")
    options.add_argument("--prompt", type=int, default=32, help="tokens of a prompt (default 32)")
    options.add_argument("--answer", type=int, default=48, help="tokens of an answer (default 48)")
    options.add_argument("--without-vllm-serve", action="store_true", help="leave that side out, and its start")
    asked = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sides end with us
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder, ExitStack() as held:
        root = Path(folder)
        backbone = root / "backbone"
        vocabulary = backbones.make(asked.shape, backbone)
        os.environ.update(sides.settings_of(root, backbone))
        starts = [sides.bare(root, backbone), sides.ours(root)]
        if not asked.without_vllm_serve:
            starts.append(sides.theirs(root, backbone))
        card.share(len(starts))
        up = _all_up(starts, held)
        print(f"all sides are up after {time.monotonic() - began:.0f} s", file=sys.stderr)
        seed = seeds()

        def load(share: float = 1.0) -> Load:
            counts = [max(1, round(share * count)) for count in (asked.probes, asked.requests)]
            return Load(*counts, asked.concurrency, asked.prompt, asked.answer, vocabulary, seed())

        figures = uvloop.run(_rounds(up, asked.rounds, load))
    _tell(asked.json, figures, vars(asked))


def _all_up(starts: list[AbstractContextManager[sides.Ready]], held: ExitStack) -> list[sides.Side]:
    """All at once on a CPU; one after the other on a GPU, where vLLM takes what others take while it starts for its own."""
    if card.has_card():
        return [side for start in starts for side in held.enter_context(start)()]
    starting = [held.enter_context(start) for start in starts]
    return [side for ready in starting for side in ready()]


async def _rounds(up: list[sides.Side], rounds: int, load: Any) -> dict[str, list[Figures]]:
    for side in up:
        await side.run(load(0.2))  # connections, allocators, caches
    figures: dict[str, list[Figures]] = {side.name: [] for side in up}
    for number in range(rounds):
        for side in up if number % 2 == 0 else reversed(up):
            figures[side.name].append(await side.run(load()))
            print(f"round {number + 1}, {side.name}: {figures[side.name][-1]}", file=sys.stderr)
    return figures


def _tell(file: Path | None, figures: dict[str, list[Figures]], asked: dict[str, Any]) -> None:
    def pairs(one: str, other: str, column: str, beside: Callable[[float, float], float]) -> list[float]:
        rounds = list(zip(figures[one], figures[other], strict=True))
        quiet = [pair for pair in rounds if max(side.others for side in pair) < QUIET]
        return [beside(getattr(mine, column), getattr(theirs, column)) for mine, theirs in quiet or rounds]

    measured = {
        name: {column: Spread.of([getattr(one, column) for one in rounds]) for column in COLUMNS}
        for name, rounds in figures.items()
    }
    beside = {
        name: {
            "throughput_ratio": Spread.of(pairs(name, BARE, "tokens_per_s", truediv)),
            "ttft_p50_added_ms": Spread.of(pairs(name, BARE, "first_token_ms", sub)),
            "cpu_added_us": Spread.of(pairs(name, BARE, "front_us", sub)),
            "cpu_ratio": Spread.of(
                [_work(theirs) / _work(mine) for mine, theirs in zip(figures[name], figures[BARE], strict=True)]
            ),
        }
        for name in figures
        if name != BARE
    }
    result: dict[str, float] = {
        "throughput_ratio": min(beside[name]["throughput_ratio"].median for name in OURS),
        "ttft_p50_added_ms": max(beside[name]["ttft_p50_added_ms"].median for name in OURS),
        "cpu_ratio": min(beside[name]["cpu_ratio"].median for name in OURS),
    }
    for key, other in (("no_client", INSIDE), ("vllm_serve", THEIRS)):
        if other in figures:
            ours = OURS if other == INSIDE else OURS[1:]
            ratios = [statistics.median(pairs(name, other, "tokens_per_s", truediv)) for name in ours]
            added = [statistics.median(pairs(name, other, "first_token_ms", sub)) for name in ours]
            result |= {f"throughput_ratio_{key}": min(ratios), f"ttft_p50_added_ms_{key}": max(added)}
    title = f"{asked['shape']}, {asked['concurrency']} at once, median (least to most) of the rounds"
    show(title, ("side", *COLUMNS.values()), [[name, *map(str, row.values())] for name, row in measured.items()])
    columns = ("beside the bare engine", "ratio", "added, ms", "CPU added, us/token", "CPU ratio")
    show("", columns, [[name, *map(str, row.values())] for name, row in beside.items()])
    show("beside", ("figure", ""), [[name, value] for name, value in result.items()])
    shown = {name: value for name, value in asked.items() if name != "json"}
    write(file, {**result, "beside_bare": beside, "sides": measured, "asked": shown})


def _work(side: Figures) -> float:
    """All CPU time of a token, in times of the engine's: the engine's share is the same work everywhere, and so tells how fast
    the machine was in that round."""
    return 1 + (side.front_us + side.client_us) / side.engine_us


if __name__ == "__main__":
    main()
