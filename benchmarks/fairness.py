"""One tenant floods at 20 times its share: what the others notice, and what keeping them from noticing costs.

Four tenants ask now and then; a fifth keeps 20 times its share of the service's places asked for. The same load goes to
the service as it is and to one that serves first come, first served (`GRAFT_SERVING_FAIR_ORDER=false`), in alternating
order; before each flood the same four tenants ask the same without it.

`victim_p95_ratio`: the four tenants' 95th percentile of the time to the first text, over the same without the flood.
`throughput_ratio`: tokens a second of all tenants during the flood, over first come, first served.
"""

import asyncio
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import card
from benchmarks.admission.load import Ask, Caller, Seen, percentile, warm_up
from benchmarks.admission.service import Service, World
from benchmarks.report import Spread, parser, show, write

FLOOD = "flood"
GOALS = "goals: at most 1.3, at least 0.95"
_FLOOD_TOKENS, _TOKENS = 64, 16


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3, help="of each side (default 3)")
    options.add_argument("--seconds", type=float, default=30.0, help="of each flood (default 30)")
    options.add_argument("--seqs", type=int, default=16, help="requests in one batch (default 16)")
    options.add_argument("--tenants", type=int, default=4, help="that are not the flood (default 4)")
    options.add_argument("--rate", type=float, default=0.5, help="their requests a second, each (default 0.5)")
    asked = options.parse_args()
    at_once = round(20 * asked.seqs / (asked.tenants + 1))
    card.share(2)
    with tempfile.TemporaryDirectory(prefix="graft-fairness-") as folder:
        world = World(Path(folder))
        victims = [f"tenant-{number}" for number in range(asked.tenants)]
        for tenant in (*victims, FLOOD):
            world.tenant(tenant, 1)
        # Slots for all: this is about places in the batch; `benchmarks.pressure` is about slots.
        settings = {"max_num_seqs": asked.seqs, "max_loras": len(world.keys)}
        with (
            Service(world, "fair", **settings) as fair,
            Service(world, "fcfs", **settings, fair_order=False, newcomer_seqs=0) as fcfs,
        ):
            runs = asyncio.run(_runs({"fair": fair.address, "fcfs": fcfs.address}, world, victims, at_once, asked))
    figures = _figures(runs)
    _table(figures)
    write(asked.json, figures | {"setting": {**vars(asked), "json": None, "flood_at_once": at_once}})


async def _runs(
    addresses: dict[str, str], world: World, victims: list[str], at_once: int, asked: Any
) -> dict[str, list[dict[str, float]]]:
    callers = {side: Caller(address, world.keys) for side, address in addresses.items()}
    for caller in callers.values():
        await warm_up(caller, [Ask(tenant, "a0", "warm up", _TOKENS) for tenant in (*victims, FLOOD)])
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in callers}
    for number in range(asked.runs):
        asks = _asks(victims, asked.rate, asked.seconds, seed=number)
        for side in callers if number % 2 == 0 else reversed(list(callers)):
            runs[side].append(await _run(callers[side], asks, at_once, asked.seconds))
            print(side, {name: round(value, 3) for name, value in runs[side][-1].items()}, flush=True)
    for caller in callers.values():
        await caller.close()
    return runs


def _asks(victims: list[str], rate: float, seconds: float, *, seed: int) -> list[Ask]:
    """Arrivals at random (Poisson), prompts of natural spread; the same for each side of a run."""
    draw = random.Random(seed)
    made = []
    for tenant in victims:
        at = draw.expovariate(rate)
        while at < seconds:
            made.append(Ask(tenant, "a0", _prompt(draw), _TOKENS, at))
            at += draw.expovariate(rate)
    return made


def _prompt(draw: random.Random) -> str:
    return "".join(draw.choice("abcdefghij klmnop:\n") for _ in range(draw.randint(20, 80)))


async def _run(caller: Caller, asks: list[Ask], at_once: int, seconds: float) -> dict[str, float]:
    quiet = await caller.on_time(asks)
    draw = random.Random(len(asks))
    flood = [Ask(FLOOD, "a0", _prompt(draw), _FLOOD_TOKENS) for _ in range(500)]
    stop = asyncio.Event()
    flooding = asyncio.create_task(caller.flood(flood, at_once, stop))
    await asyncio.sleep(2.0)  # until the queue is as long as it gets
    victims = await caller.on_time(asks)
    stop.set()
    flooded = [seen for seen in await flooding if 2.0 <= seen.ended <= 2.0 + seconds]
    in_time = [seen for seen in victims if seen.ended <= seconds]
    tokens = sum(seen.tokens for seen in itertools.chain(flooded, in_time))
    return {
        "quiet_p95_s": percentile(_firsts(quiet), 95),
        "victim_p95_s": percentile(_firsts(victims), 95),
        "victim_p50_s": percentile(_firsts(victims), 50),
        "victim_queue_p95_s": percentile([seen.queue for seen in victims], 95),
        "tokens_per_second": tokens / seconds,
    }


def _firsts(seen: list[Seen]) -> list[float]:
    return [one.first for one in seen]


def _figures(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    def of(side: str, name: str) -> Spread:
        return Spread.of([run[name] for run in runs[side]])

    def ratio(side: str) -> Spread:
        return Spread.of([run["victim_p95_s"] / run["quiet_p95_s"] for run in runs[side]])

    pairs = zip(runs["fair"], runs["fcfs"], strict=True)
    return {
        "victim_p95_ratio": ratio("fair"),
        "victim_p95_ratio_fcfs": ratio("fcfs"),
        "throughput_ratio": Spread.of([ours["tokens_per_second"] / theirs["tokens_per_second"] for ours, theirs in pairs]),
        "sides": {side: {name: of(side, name) for name in runs[side][0]} for side in runs},
    }  # fmt: skip


def _table(figures: dict[str, Any]) -> None:
    sides = figures["sides"]
    show(
        "One tenant floods at 20 times its share",
        ("", "fair", "first come, first served"),
        [[name, sides["fair"][name], sides["fcfs"][name]] for name in sides["fair"]],
    )
    show(
        f"\n{GOALS}",
        ("", "median (least to most)"),
        [[name, figures[name]] for name in ("victim_p95_ratio", "throughput_ratio", "victim_p95_ratio_fcfs")],
    )


if __name__ == "__main__":
    main()
