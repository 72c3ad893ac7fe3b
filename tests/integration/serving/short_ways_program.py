"""Run by test_serving_short_ways.py in a process of its own: one engine's answers before its layers have their short ways, and after.

usage: python short_ways_program.py BACKBONE ADAPTER ADAPTER WORK_FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import sentencepiece  # noqa: F401  # as services have it: it brings an OpenMP of its own

from serving_service.engine.vllm_launch import environment
from serving_service.settings import ServingSettings

EXTENSION = "serving_service.vllm_plugin.worker.GraftWorkerExtension"
PROMPTS = [[7], list(range(5, 25)), list(range(9, 49)), [11, 12, 13], list(range(30, 66))]
"""With whom they are asked: the base, an adapter, the base, the other one, the first again."""
WHO = (0, 1, 0, 2, 1)


def few(model: Any) -> dict[str, int]:
    from serving_service.vllm_plugin.cpu_few_rows import kernels, multiply_few

    matrices = [one for one in model.modules() if "cpu_linear" in vars(one)]
    return {"few": sum(map(multiply_few, matrices)), "matrices": len(matrices) if kernels() else 0}


def short(model: Any) -> dict[str, int]:
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.model_executor.layers.attention import Attention

    from serving_service.vllm_plugin import cpu_attention, cpu_linears

    every = list(model.modules())
    return {
        "linears": cpu_linears.shorten(model),
        "attentions": cpu_attention.shorten(model),
        "linears of the model": sum(isinstance(one, BaseLinearLayerWithLoRA) for one in every),
        "attentions of the model": sum(isinstance(one, Attention) for one in every),
    }


def main(backbone: str, adapters: list[str], work: Path) -> None:
    environment(ServingSettings(store_url="file:///nowhere", operator_key_file=work / "key", cache_dir=work))
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine is here, so its model can be reached
    from vllm import LLM, SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.lora.request import LoRARequest

    llm = LLM(
        model=backbone,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=8,
        kv_cache_memory_bytes=1 << 27,
        enable_prefix_caching=False,  # every answer is computed
        distributed_executor_backend="uni",
        enable_lora=True,
        max_loras=2,
        max_lora_rank=16,
        worker_extension_cls=EXTENSION,
    )
    requests = [None, *(LoRARequest(f"a{n}", n, folder) for n, folder in enumerate(adapters, 1))]
    prompts = [tokens_input(prompt) for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=4)

    def answers() -> list[Any]:
        made = llm.generate(prompts, params, lora_request=[requests[who] for who in WHO], use_tqdm=False)
        return [
            [sorted((token, seen.logprob) for token, seen in place.items()) for place in one.outputs[0].logprobs or []]
            for one in made
        ]

    usual, counts, again = answers(), llm.apply_model(short)[0], answers()
    counts |= llm.apply_model(few)[0]
    print(json.dumps({"usual": usual, "again": again, "few": answers(), "counts": counts}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:4], Path(sys.argv[4]))
