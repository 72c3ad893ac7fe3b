"""Cold adapters under traffic: how soon the first token comes, and what the others notice.

Two tenants' answers stream all the time. After a quiet while, adapters that are in the store only are asked for, one after
the other. `seconds_to_first_token` is the median from the call to its first token, everything included: the store's bytes
(S3 on loopback, unless --store names one), their verification, reading, packing, the slot. `worst_gap_ratio` is the others'
longest gap between two tokens during the loads over their 99th percentile in quiet. What a host does to such a figure by itself is told
beside it: the longest gaps in pieces of the quiet that are as long as a load. Then the same adapters are asked for again, in memory by
now: `resident_gap_ratio` is what any newcomer costs the others, its prompt's step above all.

Beside it stock vLLM of the same version, the same model and traffic, its adapters on local disk already: `stock` in the
figures. It loads inside its engine's loop.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import card
from benchmarks.gaps import Stream, p99
from benchmarks.report import Spread, parser, show, write
from benchmarks.serving_fleet import LINEAR, SHAPES, Fleet, Running, make_adapter, make_backbone, serve
from benchmarks.store import s3_url

PROMPT = "tell me something long "
TENANTS = ("one", "two")
TOKENS = 200  # of a background answer; the next one begins when it ends


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--loads", type=int, default=8, help="cold adapters (default 8)")
    options.add_argument("--quiet", type=float, default=20.0, help="seconds without loads before them (default 20)")
    usual = "8b" if card.has_card() else "210m"
    options.add_argument("--shape", choices=sorted(SHAPES), default=usual, help=f"of the backbone (default {usual})")
    options.add_argument("--store", help="an S3 store to use instead of starting one")
    options.add_argument("--no-stock", action="store_true", help="leave the peer out")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder, s3_url(asked.store) as url:
        work = Path(folder)
        shape = SHAPES[asked.shape]
        backbone = make_backbone(work / "backbone", shape)
        fleet = Fleet(work, backbone, url)
        folders = [
            make_adapter(work / f"adapter{n}", backbone, rank=shape.rank, modules=LINEAR, seed=n)
            for n in range(asked.loads + len(TENANTS))
        ]
        for tenant in TENANTS:
            fleet.tenant(tenant)
            fleet.publish(tenant, "warm", folders.pop())
        for number, made in enumerate(folders):
            fleet.publish("one", f"cold{number}", made)
        size = (folders[0] / "adapter_model.safetensors").stat().st_size
        settings = {"max_loras": 4, "max_lora_rank": shape.rank, "kv_cache_gib": 0.5, "max_num_seqs": 16}
        with serve(fleet, work / "home", **settings) as running:
            figures = ours(running, asked.loads, asked.quiet)
        if not asked.no_stock:
            warm = make_adapter(work / "stock-warm", backbone, rank=shape.rank, modules=LINEAR, seed=1000)
            figures["stock"] = _stock(backbone, [warm, *folders], asked.quiet, shape.rank)
    figures |= {"adapter_mb": size / 1e6, "shape": asked.shape}
    _table(figures)
    write(asked.json, figures)


def ours(running: Running, loads: int, quiet: float) -> dict[str, Any]:
    """Measures the service."""

    def forever(tenant: str) -> Stream:
        return Stream(lambda: running.token_times(tenant, "warm", PROMPT, TOKENS))

    streams = [forever(tenant) for tenant in TENANTS]
    for tenant in TENANTS:  # their own loads are not measured
        for _ in running.token_times(tenant, "warm", PROMPT, 8):
            pass
    for stream in streams:
        stream.start()
    began = time.monotonic()
    time.sleep(quiet)  # the measurement itself: so long nothing is loaded
    calm = time.monotonic()

    def ask_each() -> tuple[list[float], list[float]]:
        firsts, ends = [], [time.monotonic()]
        for number in range(loads):
            asked = time.monotonic()
            firsts.append(next(iter(running.token_times("one", f"cold{number}", PROMPT, 4))) - asked)
            ends.append(time.monotonic())
        return firsts, ends

    cold, warm = ask_each(), ask_each()
    for stream in streams:
        stream.stop()
    again = figures_of(streams, began, calm, warm[1], warm[0])
    return figures_of(streams, began, calm, cold[1], cold[0]) | {
        "resident_first_token_s": again["first_token_s"],
        "resident_gap_ratio": again["worst_gap_ratio"],
        "resident_longest_gap_ms": again["longest_gap_ms"],
        "resident_quiet_longest_gap_ms": again["quiet_longest_gap_ms"],
    }


def figures_of(
    streams: list[Stream], began: float, calm: float, ends: list[float], firsts: list[float]
) -> dict[str, Any]:
    """The figures of one side; `ends` are the moments between the loads."""
    usual = p99([gap for stream in streams for gap in stream.gaps(began, calm)])
    as_long = statistics.median(end - start for start, end in itertools.pairwise(ends))
    pieces = [began + number * as_long for number in range(int((calm - began) / as_long) + 1)]
    longest, quiet = (
        [
            max((gap for stream in streams for gap in stream.gaps(start, end)), default=0.0)
            for start, end in itertools.pairwise(moments)
        ]
        for moments in (ends, pieces)
    )
    return {
        "seconds_to_first_token": statistics.median(firsts),
        "worst_gap_ratio": max(longest) / usual,
        "first_token_s": Spread.of(firsts),
        "quiet_gap_p99_ms": usual * 1e3,
        "longest_gap_ms": Spread.of([gap * 1e3 for gap in longest]),
        "quiet_longest_gap_ms": Spread.of([gap * 1e3 for gap in quiet or [usual]]),
    }


def _stock(backbone: Path, folders: list[Path], quiet: float, rank: int) -> dict[str, Any]:
    """Runs the peer in a process of its own: vLLM is configured through the environment, before its import."""
    task = json.dumps({"backbone": str(backbone), "folders": list(map(str, folders)), "quiet": quiet, "rank": rank})
    command = [sys.executable, "-m", "benchmarks.cold_load_stock"]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"stock vLLM failed\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(figures: dict[str, Any]) -> None:
    again = {name.removeprefix("resident_"): value for name, value in figures.items() if name.startswith("resident_")}
    again |= {
        "seconds_to_first_token": again["first_token_s"].median,
        "worst_gap_ratio": again["gap_ratio"],
        "quiet_gap_p99_ms": figures["quiet_gap_p99_ms"],
    }
    rows = [["graftwork, from the store", *_cells(figures)], ["the same, in memory", *_cells(again)]]
    if stock := figures.get("stock"):
        rows.append(["stock vLLM, from disk", *_cells(stock)])
    columns = ("", "first token s", "quiet gap p99 ms", "longest gap ms", "in as much quiet", "worst gap ratio")
    show(f"Cold adapters of {figures['adapter_mb']:.0f} MB beside two streams ({figures['shape']})", columns, rows)


def _cells(figures: dict[str, Any]) -> list[object]:
    gaps = [_spread(figures[name]) for name in ("longest_gap_ms", "quiet_longest_gap_ms")]
    return [figures["seconds_to_first_token"], figures["quiet_gap_p99_ms"], *gaps, figures["worst_gap_ratio"]]


def _spread(figure: Any) -> Spread:
    """Of this process, or as the peer's wrote it."""
    return (
        figure if isinstance(figure, Spread) else Spread(figure["median"], figure["min"], figure["max"], figure["runs"])
    )


if __name__ == "__main__":
    main()
