"""What our gRPC and HTTP cost: beside a bare AsyncLLM in a process, and beside `vllm serve`, in one run.

All sides run the same vLLM with the same arguments on the same backbone of random weights, in processes of their own that
stay up; rounds go over them in alternating order, every prompt is new, and every side must bring every token. The load is
made by this process, except on the bare engine, where it is on the engine's own event loop: its figure is without any client.

`throughput_ratio` is the worse of our two transports' tokens a second over the bare engine's (goal: at least 0.97);
`ttft_p50_added_ms` the worse of what they add to its median time to the first token (goal: at most 3 ms on a CPU). The same
beside `vllm serve` has `_vllm_serve` in its name and is our HTTP's only. A ratio is the median of the rounds' own ratios.
"""

import asyncio
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gateway import backbones, sides
from benchmarks.gateway.load import Figures, Load, seeds
from benchmarks.report import Spread, parser, show, write

OURS = ("our gRPC", "our HTTP")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(backbones.SHAPES), default="mini", help="of the backbone")
    options.add_argument("--rounds", type=int, default=5, help="over all sides (default 5)")
    options.add_argument("--requests", type=int, default=48, help="of a throughput round (default 48)")
    options.add_argument("--concurrency", type=int, default=16, help="requests at once (default 16)")
    options.add_argument("--probes", type=int, default=15, help="single requests for the first token (default 15)")
    options.add_argument("--prompt", type=int, default=64, help="tokens of a prompt (default 64)")
    options.add_argument("--answer", type=int, default=64, help="tokens of an answer (default 64)")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder, ExitStack() as held:
        root = Path(folder)
        backbone = root / "backbone"
        vocabulary = backbones.make(asked.shape, backbone)
        os.environ.update(sides.settings_of(root, backbone))
        up = [
            *held.enter_context(sides.bare(root, backbone)),
            *held.enter_context(sides.ours(root)),
            *held.enter_context(sides.theirs(root, backbone)),
        ]
        seed = seeds()

        def load(share: float = 1.0) -> Load:
            counts = [max(1, round(share * count)) for count in (asked.probes, asked.requests)]
            return Load(*counts, asked.concurrency, asked.prompt, asked.answer, vocabulary, seed())

        figures = asyncio.run(_rounds(up, asked.rounds, load))
    _tell(asked.json, figures, vars(asked))


async def _rounds(up: list[sides.Side], rounds: int, load: Any) -> dict[str, list[Figures]]:
    for side in up:
        await side.run(load(0.2))  # connections, allocators, caches
    figures: dict[str, list[Figures]] = {side.name: [] for side in up}
    for number in range(rounds):
        for side in up if number % 2 == 0 else reversed(up):
            figures[side.name].append(await side.run(load()))
    return figures


def _tell(file: Path | None, figures: dict[str, list[Figures]], asked: dict[str, Any]) -> None:
    def ratio(one: str, other: str) -> float:
        pairs = zip(figures[one], figures[other], strict=True)
        return statistics.median(mine.tokens_per_s / theirs.tokens_per_s for mine, theirs in pairs)

    def added(one: str, other: str) -> float:
        pairs = zip(figures[one], figures[other], strict=True)
        return statistics.median(mine.first_token_ms - theirs.first_token_ms for mine, theirs in pairs)

    measured = {
        name: {
            "tokens_per_s": Spread.of([one.tokens_per_s for one in rounds]),
            "ttft_p50_ms": Spread.of([one.first_token_ms for one in rounds]),
        }
        for name, rounds in figures.items()
    }
    result = {
        "throughput_ratio": min(ratio(name, "bare engine") for name in OURS),
        "ttft_p50_added_ms": max(added(name, "bare engine") for name in OURS),
        "throughput_ratio_vllm_serve": ratio("our HTTP", "vllm serve"),
        "ttft_p50_added_ms_vllm_serve": added("our HTTP", "vllm serve"),
    }
    beside = {
        name: {"throughput_ratio": ratio(name, "bare engine"), "ttft_p50_added_ms": added(name, "bare engine")}
        for name in (*OURS, "vllm serve")
    }
    rows = [
        [
            name,
            *(str(spread) for spread in spreads.values()),
            beside[name]["throughput_ratio"] if name in beside else "",
            beside[name]["ttft_p50_added_ms"] if name in beside else "",
        ]
        for name, spreads in measured.items()
    ]
    columns = ("side", "tokens/s", "first token, ms", "ratio", "added, ms")
    show(f"{asked['shape']}, {asked['concurrency']} at once, median (least to most) of the rounds", columns, rows)
    show("beside", ("figure", ""), [[name, value] for name, value in result.items()])
    shown = {name: value for name, value in asked.items() if name != "json"}
    write(file, {**result, "beside_bare": beside, "sides": measured, "asked": shown})


if __name__ == "__main__":
    main()
