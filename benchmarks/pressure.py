"""Four times as many active adapters as slots, over the same traffic with a slot for each.

Requests come at random (Poisson) at a share of what the service with enough slots can take, each for an adapter drawn
evenly. Every adapter is in host memory before anything is measured: this is about slots, `benchmarks.cold_load` is about
loading. The two services get the same requests at the same times, in alternating order.

`ttft_median_ratio`: median time to the first text with few slots, over that with enough. `whole_median_ratio`: the same to
the end of the answer, so that nothing is won at its expense. `gap`: an answer's longest time without text.
"""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import card
from benchmarks.admission.load import Ask, Caller, percentile, warm_up
from benchmarks.admission.service import Service, World
from benchmarks.report import Spread, parser, show, write

GOALS = "goal: ttft_median_ratio at most 2"
TIMES = 4


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3, help="of each side (default 3)")
    options.add_argument("--seconds", type=float, default=30.0, help="of each run (default 30)")
    options.add_argument("--slots", type=int, default=32, help="default 32, the service's own for this backbone")
    options.add_argument("--tokens", type=int, default=16, help="of an answer (default 16)")
    options.add_argument("--load", type=float, default=0.5, help="share of what enough slots can take (default 0.5)")
    options.add_argument("--rate", type=float, default=0.0, help="requests a second in place of a share (default 0)")
    options.add_argument(
        "--in-flight", type=int, default=0, help="adapters in flight with few slots (default 0: the service's own)"
    )
    options.add_argument("--adapters-a-tenant", type=int, default=8, help="default 8")
    asked = options.parse_args()
    adapters = TIMES * asked.slots
    card.share(2)
    with tempfile.TemporaryDirectory(prefix="graft-pressure-") as folder:
        world = World(Path(folder))
        while len(world.adapters) < adapters:
            world.tenant(f"tenant-{len(world.keys)}", min(asked.adapters_a_tenant, adapters - len(world.adapters)))
        settings = {"max_num_seqs": 32}
        with (
            Service(world, "few", **settings, max_loras=asked.slots, max_adapters_in_flight=asked.in_flight) as few,
            Service(world, "enough", **settings, max_loras=adapters) as enough,
        ):
            runs, capacity = asyncio.run(_runs({"few": few.address, "enough": enough.address}, world, asked))
    figures = _figures(runs) | {"capacity_requests_per_second": capacity}
    _table(figures)
    write(asked.json, figures | {"setting": {**vars(asked), "json": None, "adapters": adapters}})


async def _runs(addresses: dict[str, str], world: World, asked: Any) -> tuple[dict[str, list[dict[str, float]]], float]:
    callers = {side: Caller(address, world.keys) for side, address in addresses.items()}
    each = [Ask(tenant, adapter, "warm up", asked.tokens) for tenant, adapter in world.adapters]
    for caller in callers.values():
        await warm_up(caller, each)
    capacity = await _capacity(callers["enough"], each)
    print(f"capacity with enough slots: {capacity:.1f} requests/s", flush=True)
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in callers}
    for number in range(asked.runs):
        asks = _asks(world, asked.rate or asked.load * capacity, asked.seconds, asked.tokens, seed=number)
        for side in callers if number % 2 == 0 else reversed(list(callers)):
            seen = await callers[side].on_time(asks)
            firsts, wholes = [one.first for one in seen], [one.whole for one in seen]
            runs[side].append(
                {
                    "ttft_median_s": percentile(firsts, 50),
                    "ttft_p95_s": percentile(firsts, 95),
                    "ttft_most_s": max(firsts),
                    "whole_median_s": percentile(wholes, 50),
                    "whole_p95_s": percentile(wholes, 95),
                    "whole_most_s": max(wholes),
                    "gap_median_s": percentile([one.gap for one in seen], 50),
                    "gap_p95_s": percentile([one.gap for one in seen], 95),
                    "queue_median_s": percentile([one.queue for one in seen], 50),
                }
            )
            print(side, {name: round(value, 3) for name, value in runs[side][-1].items()}, flush=True)
    for caller in callers.values():
        await caller.close()
    return runs, capacity


async def _capacity(caller: Caller, each: list[Ask]) -> float:
    """Requests a second with two of each adapter in the service at all times."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(8.0, stop.set)
    seen = await caller.flood(each, 2 * len(each), stop)
    late = [one for one in seen if one.ended > 2.0]
    return len(late) / 6.0


def _asks(world: World, rate: float, seconds: float, tokens: int, *, seed: int) -> list[Ask]:
    draw, at, made = random.Random(seed), 0.0, list[Ask]()
    while (at := at + draw.expovariate(rate)) < seconds:
        tenant, adapter = draw.choice(world.adapters)
        prompt = "".join(draw.choice("abcdefghij klmnop:\n") for _ in range(draw.randint(20, 80)))
        made.append(Ask(tenant, adapter, prompt, tokens, at))
    return made


def _figures(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = list(zip(runs["few"], runs["enough"], strict=True))
    return {
        **{
            f"{what}_median_ratio": Spread.of(
                [few[f"{what}_median_s"] / enough[f"{what}_median_s"] for few, enough in pairs]
            )
            for what in ("ttft", "whole")
        },
        "sides": {
            side: {name: Spread.of([run[name] for run in runs[side]]) for name in runs[side][0]} for side in runs
        },
    }


def _table(figures: dict[str, Any]) -> None:
    sides = figures["sides"]
    show(
        "Four times as many active adapters as slots",
        ("", "few slots", "enough slots"),
        [[name, sides["few"][name], sides["enough"][name]] for name in sides["few"]],
    )
    names = ("ttft_median_ratio", "whole_median_ratio")
    show(f"\n{GOALS}", ("", "median (least to most)"), [[name, figures[name]] for name in names])


if __name__ == "__main__":
    main()
