"""Engines of merged weights beside the frozen backbone: what one more costs in memory, and whether it is as fast as any.

`python -m benchmarks.merged_engines --json F` starts, in this order, the backbone's engine with LoRA, two engines of merged
weights that share its memory, a whole one of the same weights that shares nothing (the peer), and one of a model of next to no
weights (the floor of an engine's process). Memory is the sum over all engines of their share of each page (Pss) before and
after each start, after the same load. Speed is measured in turns with the peer.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.gateway.backbones import SHAPES, make
from serving_service.engine.merged_engines import VllmMergedEngines
from serving_service.engine.protocol import Rendered, Sampling
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.engine.vllm_launch import Merged
from serving_service.settings import ServingSettings

RANK = 16
PREFILL = (1, 256, 1)
DECODE = (8, 8, 16)
"""Requests at once, tokens in, tokens out. Short, so that a pair of them meets the same machine."""


def make_adapter(shape: str, folder: Path) -> None:
    """Writes an adapter on q_proj and v_proj with random weights."""
    width = SHAPES[shape]["hidden_size"]
    rng = np.random.default_rng(1)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight": rng.standard_normal(
            (RANK, width) if side == "A" else (width, RANK), dtype=np.float32
        )
        * np.float32(0.02)
        for layer in range(SHAPES[shape]["num_hidden_layers"])
        for part in "qv"
        for side in "AB"
    }
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


async def load(engine: VllmEngine, vocabulary: int, shape: tuple[int, int, int], seed: int) -> float:
    """Sends a batch; returns tokens per second, in and out."""
    requests, given, wanted = shape
    rng = np.random.default_rng(seed)
    sampling = Sampling(temperature=0, max_tokens=wanted, ignore_eos=True)

    async def one(number: int) -> int:
        prompt = Rendered(rng.integers(5, vocabulary, given).tolist())
        answer = engine.generate(f"{seed}-{number}", prompt, sampling, lora=None, tenant="bench")
        return given + sum([delta.tokens async for delta in answer])

    began = time.perf_counter()
    return sum(await asyncio.gather(*map(one, range(requests)))) / (time.perf_counter() - began)


def memory(engines: list[VllmEngine]) -> dict[str, int]:
    """Returns bytes by kind, over all processes of the engines."""
    total = dict.fromkeys(("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem", "Private_Dirty"), 0)
    for engine in engines:
        for pid in engine.processes:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                kind, size, *_ = line.replace(":", " ").split()
                if kind in total:
                    total[kind] += int(size) * 1024
    return total


@asynccontextmanager
async def started(engine: VllmEngine) -> AsyncIterator[VllmEngine]:
    if not engine.healthy:
        await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def run(root: Path, shape: str, rounds: int, parts: list[str]) -> dict[str, Any]:
    vocabulary = make(shape, root / "backbone")
    make("mini", root / "mini")
    make_adapter(shape, root / "adapter")
    (root / "key").write_text("none")
    settings = ServingSettings(  # type: ignore[call-arg]
        GRAFT_STORE_URL=f"file://{root}", GRAFT_OPERATOR_KEY_FILE=root / "key", cache_dir=root,
        kv_cache_gib=0.5, merged_budget_bytes=1 << 40, merged_kv_cache_gib=0.5, max_loras=2, max_lora_rank=16, log_level="ERROR",
    )  # fmt: skip
    backbone = str(root / "backbone")
    engines: list[VllmEngine] = []
    costs: dict[str, dict[str, int]] = {}
    total = memory(engines)

    async def added(name: str, engine: VllmEngine) -> VllmEngine:
        nonlocal total  # from before this engine's start: what it maps lessens the others' share
        await load(engine, vocabulary, (2, 64, 4), 0)
        engines.append(engine)
        before, total = total, memory(engines)
        costs[name] = {kind: total[kind] - before[kind] for kind in total}
        print(name, {kind: f"{size / 2**20:.0f} MiB" for kind, size in costs[name].items()}, flush=True)
        return engine

    async with AsyncExitStack() as stack:
        frozen = await added("frozen", await stack.enter_async_context(started(VllmEngine(backbone, settings))))
        makes = VllmMergedEngines(backbone, "0" * 64, settings, frozen)
        began = time.perf_counter()
        files = await makes.merge(root / "adapter", root / "merged")
        merge_seconds = time.perf_counter() - began
        one = await makes.start("one", files.folder)
        assert isinstance(one, VllmEngine)
        await added("merged", await stack.enter_async_context(started(one)))
        if "memory" in parts:
            two = await makes.start("two", files.folder)
            assert isinstance(two, VllmEngine)
            await added("merged_again", await stack.enter_async_context(started(two)))
        peer = VllmEngine(backbone, settings, Merged(files.folder))
        if "whole" in parts or "speed" in parts:
            await added("whole", await stack.enter_async_context(started(peer)))
        if "memory" in parts:
            empty = make_empty(root / "mini", root / "empty")
            floor = VllmEngine(str(root / "mini"), settings, Merged(empty))
            await added("floor", await stack.enter_async_context(started(floor)))
        shapes = {"prefill": PREFILL, "decode": DECODE} if "speed" in parts else {}
        speed = {name: await in_turns(one, peer, vocabulary, what, rounds) for name, what in shapes.items()}
    weights = (root / "backbone" / "model.safetensors").stat().st_size
    figures = {
        "weights_bytes": weights, "merged_file_bytes": files.size, "merge_seconds": merge_seconds, "pss": costs,
        "speed": speed,
    }  # fmt: skip
    if "memory" in parts:
        extra = costs["merged_again"]["Pss"]
        process = costs["floor"]["Pss"] - (root / "mini" / "model.safetensors").stat().st_size
        figures |= {
            "process_floor_bytes": process, "of_it_kv_cache_bytes": int(settings.merged_kv_cache_gib * 2**30),
            "bytes_per_merged_tenant_over_backbone": (extra - process) / weights,
            "with_process_over_backbone": extra / weights,
        }  # fmt: skip
        if "whole" in costs:
            figures["whole_engine_over_backbone"] = (costs["whole"]["Pss"] - process) / weights
    return figures


def make_empty(backbone: Path, folder: Path) -> Path:
    """Merged files that change nothing: one norm as it is."""
    from safetensors import safe_open

    folder.mkdir()
    with safe_open(backbone / "model.safetensors", framework="numpy") as tensors:
        save_file({"model.norm.weight": tensors.get_tensor("model.norm.weight")}, folder / "merged.safetensors")
    return folder


async def in_turns(
    ours: VllmEngine, peer: VllmEngine, vocabulary: int, shape: tuple[int, int, int], rounds: int
) -> dict[str, Any]:
    """Loads both in turns, who begins alternates; returns tokens per second of all rounds, and the median of the pairs' ratios."""
    seen: dict[str, list[float]] = {"merged": [], "whole": []}
    sides = [("merged", ours), ("whole", peer)]
    for number in range(rounds + 1):
        for name, engine in sides if number % 2 else reversed(sides):
            speed = await load(engine, vocabulary, shape, 10 + number)
            if number:  # the first is for warming up
                seen[name].append(speed)
        if number:
            print(shape, {name: round(speeds[-1], 1) for name, speeds in seen.items()}, flush=True)
    ratios = [one / other for one, other in zip(seen["merged"], seen["whole"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    best = max(seen["merged"]) / max(seen["whole"])  # where others use the machine, the least disturbed rounds say most
    return seen | {"merged_over_whole": middle, "quartiles": [low, high], "best_over_best": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="115m")
    parser.add_argument("--rounds", type=int, default=10)
    parts = ("memory", "whole", "speed")  # whole: the peer's memory
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        figures = asyncio.run(run(Path(root), options.shape, options.rounds, options.parts))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
