"""One engine in a process of its own: bare, stock vLLM with LoRA, or with what our service adds to it.

The first line of standard input is a `Task` as JSON; each further one a load `{"prompts", "answer", "adapters"}`, answered
with the seconds that it took. Every request of a load is sent at once; request i uses adapter i modulo `adapters`, 0 is the
base. With a socket it answers there as well, as the gateway benchmark's bare engine does. Started by `engines`.
"""

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.card import has_card
from benchmarks.gateway.bare import Answerer
from serving_service.engine.vllm_launch import MANY_SPINS

EXTENSION = "serving_service.vllm_plugin.worker.GraftWorkerExtension"


@dataclass(frozen=True, slots=True)
class Task:
    """What to start.

    Attributes:
        side: `bare`, `stock` or `ours`.
        backbone, adapters: folders; a bare engine has no adapters.
        has_weights: False: random ones.
        slots, rank: of adapters.
        requests, tokens: the most at once, and of one request.
        gpu_share: of a GPU's memory.
        modules: linear layers that our side has slots for (`GRAFT_SERVING_LORA_MODULES`); stock has them for all.
        socket: path of a Unix socket to answer on, too; empty: none.
    """

    side: str
    backbone: str
    adapters: list[str]
    has_weights: bool
    slots: int
    rank: int
    requests: int
    tokens: int
    gpu_share: float
    modules: list[str]
    socket: str = ""


def build(task: Task) -> Any:
    """Starts the engine; the arguments are the service's own (`vllm_launch`), LoRA aside."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    cpu = current_platform.is_cpu()
    more: dict[str, Any] = (
        {"kv_cache_memory_bytes": 2**30, "distributed_executor_backend": "uni", "dtype": "float32"}
        if cpu
        else {"gpu_memory_utilization": task.gpu_share}
    )
    if task.side != "bare":
        more |= {"enable_lora": True, "max_loras": task.slots, "max_cpu_loras": 1000, "max_lora_rank": task.rank}
    if task.side == "ours":
        more |= {"worker_extension_cls": EXTENSION, "lora_target_modules": task.modules or None}
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=task.backbone,
            load_format="auto" if task.has_weights else "dummy",
            max_num_seqs=task.requests,
            max_model_len=task.tokens,
            enable_prefix_caching=False,  # every load is computed
            enforce_eager=cpu,
            disable_log_stats=True,
            enable_log_requests=False,
            **more,
        )
    )


async def serve(task: Task) -> None:
    from vllm.lora.request import LoRARequest

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    llm = build(task)
    if task.side == "ours":
        await llm.collective_rpc("graft_prepare_steps", args=(True,))
    adapters = [LoRARequest(f"a{n}", n + 1, folder) for n, folder in enumerate(task.adapters)]
    for adapter in adapters:
        await llm.add_lora(adapter)
    server = await asyncio.start_unix_server(Answerer(llm).answer, task.socket) if task.socket else None
    print("{}", file=answers, flush=True)
    numbers = iter(range(1 << 60))
    while line := await asyncio.to_thread(sys.stdin.readline):
        load = json.loads(line)
        began = time.perf_counter()
        used = [adapters[i % load["adapters"]] if load["adapters"] else None for i in range(len(load["prompts"]))]
        await asyncio.gather(
            *(
                _one(llm, prompt, load["answer"], adapter, str(next(numbers)))
                for prompt, adapter in zip(load["prompts"], used, strict=True)
            )
        )
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers, flush=True)
    if server is not None:
        server.close()
    llm.shutdown()


async def _one(llm: Any, prompt: list[int], answer: int, adapter: Any, number: str) -> None:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
    came = 0
    async for output in llm.generate(tokens_input(prompt), params, number, lora_request=adapter):
        came += len(output.outputs[0].token_ids)
    if came != answer:
        raise AssertionError(f"{came} tokens came of {answer}: the sides did not do the same work")


if __name__ == "__main__":
    import uvloop

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its standard input, and vLLM's process with it
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if not has_card():
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}  # as the service does
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    task = Task(**json.loads(sys.stdin.readline()))
    if task.side == "ours":
        os.environ |= {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as the service does
        os.environ.setdefault("GOMP_SPINCOUNT", str(MANY_SPINS))
    uvloop.run(serve(task))
