"""Run by test_serving_merged_engines.py in processes of its own, because engines set their environment.

usage: python merged_program.py answers|killed BACKBONE ADAPTER WORK_FOLDER
"""

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from serving_service.engine.merged_engines import VllmMergedEngines
from serving_service.engine.protocol import AdapterRefused, Engine, LoraRef, Rendered, Sampling, Tier
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.settings import ServingSettings

PROMPTS = ([40, 41, 42, 43], [60, 9, 12, 33, 80, 7], list(range(6, 90)))
TOKENS = 24


async def answers(engine: Engine, name: str, lora: LoraRef | None = None) -> list[list[int]]:
    """Greedy tokens after each prompt."""
    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=True)

    async def one(number: int, prompt: list[int]) -> list[int]:
        stream = engine.generate(f"{name}-{number}", Rendered(prompt), sampling, lora=lora, tenant="t")
        return [token async for delta in stream for token in (delta.scores.token_ids if delta.scores else ())]

    return await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(PROMPTS)))


def of_weights(pid: int) -> dict[str, int]:
    """What a process has of the memory file with weights, in bytes by smaps' names."""
    found = dict.fromkeys(("Size", "Rss", "Private_Dirty", "Anonymous"), 0)
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        kind, _, rest = line.partition(":")
        if "-" in kind.split()[0] and " " in kind:  # an address: a map begins
            ours = "memfd:graft-weights" in line
        elif ours and kind in found:
            found[kind] += int(rest.split()[0]) * 1024
    return found


async def main(what: str, backbone: str, adapter: Path, work: Path) -> None:
    settings = ServingSettings(
        store_url="file:///nowhere", operator_key_file=work / "key", cache_dir=work, max_loras=1, max_lora_rank=16,
        kv_cache_gib=0.1, merged_budget_bytes=1 << 40, merged_kv_cache_gib=0.1, max_num_seqs=8, dtype="float32",
    )  # fmt: skip
    frozen = VllmEngine(backbone, settings)
    makes = VllmMergedEngines(backbone, "d" * 64, settings, frozen)
    files = await makes.merge(adapter, work / "merged")
    await frozen.start()
    # Whoever gives up while an engine loads, before its process is there or after, leaves none; nor is another one touched.
    begun = asyncio.create_task(makes.start("given up", files.folder))
    await asyncio.sleep(0)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    engines = [child for child in psutil.Process().children() if "resource_tracker" not in " ".join(child.cmdline())]
    assert [child.pid for child in engines] == frozen.processes
    merged = await makes.start("merged", files.folder)
    assert isinstance(merged, VllmEngine)
    if what == "killed":
        print(json.dumps(frozen.processes + merged.processes), flush=True)  # noqa: T201
        await asyncio.Event().wait()
    lora = LoraRef("t/plain@1", adapter)
    await frozen.load(lora)
    await frozen.refresh()  # a load does not wait until it is in a slot; this is answered behind it
    with pytest.raises(AdapterRefused, match="merged"):
        await merged.load(lora)
    assert merged.tier(lora.name) is None
    assert frozen.tier(lora.name) is Tier.DEVICE
    said = {
        "base": await answers(frozen, "base"),
        "swapped": await answers(frozen, "swapped", lora),
        "merged": await answers(merged, "merged"),
        "maps": {"frozen": of_weights(frozen.processes[0]), "merged": of_weights(merged.processes[0])},
        "published": sum(size for _, size in frozen.shared_weights[0]["weights"].values()),
        "bytes_of": makes.bytes_of(files),
    }
    await merged.stop()
    said["base_again"] = await answers(frozen, "again")  # its memory is its own still
    await frozen.stop()
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
