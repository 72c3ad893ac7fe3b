"""What sharing one backbone costs, and what one tenant's own weights cost and bring, beside a bare engine of the same vLLM.

The parts, all of them by default (on a GPU: the first), each engine in processes of its own, one computing at a time:

lora: our engine with LoRA in turn with the bare one, and stock vLLM's in fewer rounds (it is slow on a CPU). `prefill` is 256
tokens in and 1 out, `decode` 8 in and 64 out; all requests of a load come at once, each with one of 0 (the base), 1 or 8
adapters of rank 16 on q_proj and v_proj. `ours_over_base`: tokens a second over the bare engine's, whose rounds before and
after it are the measure; median of the rounds; the lower one of both loads where no load is named. Our engine has slots for the
modules that the adapters change, stock for all, and does what the service's does before its first request (memory, norms, threads).
`base_rows_on_lora_engine_over_bare`: requests of the base on our engine, the worse of both loads.

merged: `merged_over_bare`: the merged route through client, service and engine, beside the bare engine over a socket, the worse of
both loads; `cutover_errors` of the requests that were under way while the alias was promoted and cut over to a new version;
`merge_seconds` of these two merges, with those requests beside them.

memory: `bytes_per_merged_tenant_over_backbone`, what one more merged engine takes without its process and cache, over the
backbone's weights; `benchmarks.merged_engines` has the rest of it.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.card import has_card
from benchmarks.gateway.load import PROBE_ANSWER
from benchmarks.multi_lora import merged, sharing
from benchmarks.multi_lora.engine import Task
from benchmarks.multi_lora.engines import EngineProcess, started
from benchmarks.multi_lora.world import MODULES, RANK, World, make
from benchmarks.report import parser, show, write

LOADS = {"prefill": (256, 1), "decode": (8, 64)}
"""Tokens of a prompt and of an answer."""
PARTS = ("lora", "merged", "memory")
GOALS = {
    "cpu": "goals: ours prefill 0.9 with 1 and 8 adapters, decode 0.75 and 0.6; base rows 0.97",
    "gpu": "goals: ours 0.95 with 8 adapters, 0.85 with 64; base rows 0.97",
}
MERGED_GOALS = {
    "merged_over_bare": ">= 0.98",
    "cutover_errors": "0",
    "bytes_per_merged_tenant_over_backbone": "<= 0.25",
}


def main() -> None:
    on_gpu = has_card()
    asked = _options(on_gpu)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that engines and service end with us
    loads = {name: LOADS[name] for name in asked.loads}
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graft-multi-lora-") as folder:
        root = Path(folder)
        if {"lora", "merged"} & set(asked.parts):
            world = make(asked.shape, root, max(2, *asked.adapters))
            socket = root / "bare.socket"
            with started(_task("bare", world, asked, on_gpu, socket), root) as bare:
                if "lora" in asked.parts:
                    result |= _sharing(bare, world, root, loads, asked, on_gpu)
                if "merged" in asked.parts:
                    result |= uvloop.run(merged.beside_bare(bare, socket, world, root / "merged", loads, asked))
        if "memory" in asked.parts:
            result |= _memory(asked.shape, root / "memory.json")
    _tell(result)
    setting = {name: value for name, value in vars(asked).items() if name != "json"}
    write(asked.json, {**result, "setting": setting})


def _options(on_gpu: bool) -> Any:
    def several(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(one) for one in several(text)]

    options = parser(__doc__)
    options.add_argument(
        "--parts", type=several, default=["lora"] if on_gpu else list(PARTS), help="with commas between"
    )
    options.add_argument("--shape", choices=("mini", "115m", "8b"), default="8b" if on_gpu else "115m")
    adapters = [0, 1, 8, 64] if on_gpu else [0, 1, 8]
    options.add_argument("--adapters", type=numbers, default=adapters, help="how many, each a column")
    options.add_argument("--slots", type=int, default=0, help="of adapters, on both sides (default: the most adapters)")
    options.add_argument("--requests", type=int, default=256 if on_gpu else 16, help="at once")
    options.add_argument("--rounds", type=int, default=3, help="default 3")
    options.add_argument("--stock-rounds", type=int, default=1, help="default 1; 0 leaves stock vLLM's LoRA out")
    options.add_argument("--merged-rounds", type=int, default=8, help="pairs with the merged route (default 8)")
    options.add_argument("--loads", type=several, default=list(LOADS), help="default: both")
    asked = options.parse_args()
    asked.slots = asked.slots or max(asked.adapters)
    if asked.slots < max(asked.adapters):
        options.error("--slots must be enough for the most --adapters: they are all used in one step")
    if unknown := {*asked.parts} - {*PARTS} | {*asked.loads} - {*LOADS}:
        options.error(f"there is no {', '.join(sorted(unknown))}")
    return asked


def _task(side: str, world: World, asked: Any, on_gpu: bool, socket: Path | None = None) -> Task:
    return Task(
        side=side,
        backbone=str(world.backbone),
        adapters=[] if side == "bare" else [str(one) for one in world.adapters[: max(asked.adapters)]],
        has_weights=world.has_weights,
        slots=asked.slots,
        rank=RANK,
        requests=asked.requests,
        tokens=max(prompt + max(answer, PROBE_ANSWER) for prompt, answer in LOADS.values()) + 1,
        gpu_share=0.28 if on_gpu else 0.0,
        modules=list(MODULES),
        socket=str(socket or ""),
    )


def _sharing(
    bare: EngineProcess, world: World, root: Path, loads: dict[str, tuple[int, int]], asked: Any, on_gpu: bool
) -> dict[str, Any]:
    sides = ["ours", *(["stock"] if asked.stock_rounds else [])]
    with ExitStack() as held:
        engines = {side: held.enter_context(started(_task(side, world, asked, on_gpu), root)) for side in sides}
        engines["bare"] = bare
        found = {
            name: sharing.turns(engines, load, world.vocabulary, asked.adapters, asked) for name, load in loads.items()
        }
    device = "gpu" if on_gpu else "cpu"
    title = f"{asked.shape}, {asked.requests} at once, median (least to most) of the rounds"
    columns = ("load", "engine", "adapters", "tokens/s", "over the bare engine")
    show(title, columns, sharing.rows(found, asked.requests, loads))
    print(GOALS[device])
    made = sharing.figures(found)
    result: dict[str, Any] = {device: made}
    if 0 in asked.adapters:
        result["base_rows_on_lora_engine_over_bare"] = made["ours_over_base"]["0"]
    return result


def _memory(shape: str, file: Path) -> dict[str, Any]:
    """In a process of its own, since it has engines in it that set its environment."""
    command = [sys.executable, "-m", "benchmarks.merged_engines", "--parts", "memory", "--shape", shape]
    ran = subprocess.run([*command, "--json", file], stdout=sys.stderr)
    if ran.returncode:
        raise SystemExit("the memory of merged engines could not be measured; why is above")
    found = json.loads(file.read_text())
    name = "bytes_per_merged_tenant_over_backbone"
    return {name: found.pop(name), "memory": found}


def _tell(result: dict[str, Any]) -> None:
    rows = [
        [load, *(str(one[name]) for name in ("ratio", "cpu_ratio", "tokens_per_s", "first_token_added_ms"))]
        for load, one in result.get("merged", {}).items()
    ]
    if rows:
        columns = ("load", "over the bare engine", "CPU ratio", "tokens/s", "first token, added ms")
        show("the merged route, median (least to most) of the pairs", columns, rows)
    figures = [
        [name, value, MERGED_GOALS.get(name, "")] for name, value in result.items() if isinstance(value, float | int)
    ]
    show("", ("figure", "", "goal"), figures)


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
