"""The peer of `cold_load`: a bare AsyncLLM of the same version that loads adapters from disk with its own `add_lora`.

Reads its task as JSON from standard input and prints the figures as the last line of standard output.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from benchmarks.cold_load import PROMPT, TOKENS, figures_of
from benchmarks.gaps import Stream
from benchmarks.report import Spread


async def measure(task: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            # As our service chooses: on a GPU vLLM's kernels for adapters take half precision only.
            model=task["backbone"], dtype="float32" if current_platform.is_cpu() else "auto", enable_lora=True,
            max_loras=4, max_cpu_loras=64, max_lora_rank=task["rank"], enforce_eager=current_platform.is_cpu(),
            max_num_seqs=16, kv_cache_memory_bytes=2**29, disable_log_stats=True, distributed_executor_backend="uni",
        )
    )  # fmt: skip
    adapters = [LoRARequest(f"a{n}", n + 1, folder) for n, folder in enumerate(task["folders"])]

    async def answer(name: str, adapter: LoRARequest, tokens: int, times: list[float]) -> None:
        params = SamplingParams(temperature=0, max_tokens=tokens, output_kind=RequestOutputKind.DELTA)
        async for _ in engine.generate(PROMPT, params, name, lora_request=adapter):
            times.append(time.monotonic())  # noqa: PERF401  a cancelled answer keeps the times that it had

    async def forever(number: int, stream: Stream) -> None:
        for turn in range(1_000_000):
            stream.times.append([])
            await answer(f"stream-{number}-{turn}", adapters[0], TOKENS, stream.times[-1])

    await engine.add_lora(adapters[0])
    await answer("warm", adapters[0], 8, [])
    streams = [Stream(lambda: iter(())), Stream(lambda: iter(()))]
    running = [asyncio.create_task(forever(number, stream)) for number, stream in enumerate(streams)]
    began = time.monotonic()
    await asyncio.sleep(task["quiet"])
    calm = time.monotonic()
    firsts, ends = [], [calm]
    for adapter in adapters[1:]:
        asked = time.monotonic()
        times: list[float] = []
        await engine.add_lora(adapter)
        await answer(adapter.lora_name, adapter, 4, times)
        firsts.append(times[0] - asked)
        ends.append(time.monotonic())
    for task_ in running:
        task_.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    engine.shutdown()
    return figures_of(streams, began, calm, ends, firsts)


def main() -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    figures = asyncio.run(measure(json.loads(sys.stdin.read())))
    print(json.dumps(figures, default=lambda value: value.to_json() if isinstance(value, Spread) else str(value)))


if __name__ == "__main__":
    main()
