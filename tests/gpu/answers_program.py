"""One engine on one GPU asked the same in several ways: steps with prompts in CUDA graphs and not, adapters staged and loaded by vLLM.

usage: python answers_program.py FOLDER. Prints a JSON object a line, as it goes. After it nothing of it runs.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from serving_service.engine import vllm_launch
from serving_service.engine.protocol import LoraRef
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.settings import ServingSettings
from serving_service.vllm_plugin.worker import GraftWorkerExtension

VOCABULARY, RANK, TOKENS = 4096, 16, 12
LENGTHS = (2, 5, 13, 32, 63, 64, 65, 100, 130, 200, 255, 257, 300, 400, 500, 511)
BURST = (*(32,) * 12, 7, 19, 50)
"""Tokens of prompts that come at once, so that several are in one step."""
STREAMS = 8
"""Answers that decode meanwhile."""


class Extension(GraftWorkerExtension):
    """The worker's, that can be told to take no graph for a step with a prompt."""

    def graft_test_graphs(self, take: bool) -> list[int]:
        """Returns the sizes of the graphs that steps with prompts have taken since the last call."""
        from vllm.config.compilation import CUDAGraphMode
        from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

        manager = self.model_runner.cudagraph_manager
        if not hasattr(manager, "graft_taken"):
            manager.graft_taken, manager.graft_dispatch = [], manager.dispatch

        def dispatch(num_reqs: int, num_tokens: int, uniform: int | None, *args: Any, **named: Any) -> Any:
            found = manager.graft_dispatch(num_reqs, num_tokens, uniform, *args, **named)
            if uniform == 1:
                return found
            if not take:
                return BatchExecutionDescriptor(
                    CUDAGraphMode.NONE, num_tokens, num_reqs, num_active_loras=found.num_active_loras
                )
            if found.cg_mode is CUDAGraphMode.FULL:
                manager.graft_taken.append(found.num_tokens)
            return found

        manager.dispatch = dispatch
        taken, manager.graft_taken = manager.graft_taken, []
        return list(taken)


def say(**said: Any) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201


def make(folder: Path) -> list[Path]:
    """Writes a backbone and four adapters; the last two have another alpha, and so are of another kind."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.serving_fleet import LINEAR, SHAPES, make_adapter, make_backbone

    backbone = make_backbone(folder / "backbone", SHAPES["mini"])  # for its tokenizer
    (backbone / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1, dtype="bfloat16",
        tie_word_embeddings=True, initializer_range=0.06,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(backbone)
    adapters = [
        make_adapter(folder / f"adapter{number}", backbone, rank=RANK, modules=LINEAR, seed=number)
        for number in range(4)
    ]
    for adapter in adapters[2:]:
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": RANK}))
    return adapters


class Asked:
    """An engine, and prompts for it."""

    def __init__(self, engine: VllmEngine, adapters: list[Path]) -> None:
        self.engine, self._numbers = engine, iter(range(1 << 30))
        self.refs = [LoraRef(path.name, path) for path in adapters]
        draw = random.Random(5)
        self.prompts = [self._draw(draw, length) for length in LENGTHS]
        self.burst = [self._draw(draw, length) for length in BURST]

    @staticmethod
    def _draw(draw: random.Random, length: int) -> list[int]:
        return [draw.randrange(2, VOCABULARY) for _ in range(length)]

    async def one(self, prompt: list[int], request: Any, stock: bool = False) -> dict[str, Any]:
        """Greedy; with the log-probabilities of the prompt's tokens, and the likeliest first ones'.

        Args:
            prompt: tokens.
            request: what vLLM calls the adapter.
            stock: it is none of the engine's own; vLLM loads it inside the step.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False, prompt_logprobs=0, logprobs=3,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        name, tokens = f"a{next(self._numbers)}", tokens_input(prompt)
        if stock:
            outputs = self.engine._running().generate(tokens, params, name, lora_request=request)
        else:
            outputs = self.engine.outputs(tokens, params, name, request)
        async for output in outputs:
            last = output
        scores = [row[token].logprob for token, row in zip(prompt[1:], last.prompt_logprobs[1:], strict=True)]
        first = {str(token): one.logprob for token, one in last.outputs[0].logprobs[0].items()}
        return {"prompt": scores, "first": first, "tokens": list(last.outputs[0].token_ids)}

    def request(self, number: int) -> Any:
        """Of the base for every third, of two adapters for the others."""
        return self.engine.lora_request(self.refs[number % 3 - 1] if number % 3 else None)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Answers decode until the end of the block."""
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import SamplingParams

        begun = asyncio.Semaphore(0)

        async def stream(number: int) -> None:
            params = SamplingParams(temperature=0, max_tokens=1900, ignore_eos=True, detokenize=False)
            prompt = tokens_input(self._draw(random.Random(number), 20))
            request, name = self.request(number), f"a{next(self._numbers)}"
            async with contextlib.aclosing(self.engine.outputs(prompt, params, name, request)) as outputs:
                async for output in outputs:
                    if len(output.outputs[0].token_ids) == 2:
                        begun.release()

        streams = [asyncio.create_task(stream(number)) for number in range(STREAMS)]
        for _ in streams:
            await begun.acquire()
        yield
        assert not any(one.done() for one in streams), "they ended too soon: longer answers, please"
        for one in streams:
            one.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def all(self) -> dict[str, list[dict[str, Any]]]:
        async def alone() -> list[dict[str, Any]]:
            return [await self.one(prompt, self.request(number)) for number, prompt in enumerate(self.prompts)]

        async def together() -> list[dict[str, Any]]:
            asked = [self.one(prompt, self.request(number)) for number, prompt in enumerate(self.burst)]
            return list(await asyncio.gather(*asked))

        said = {"alone": await alone(), "together": await together()}
        async with self.busy():
            return said | {"beside": await alone(), "together beside": await together()}


async def main(folder: Path) -> None:
    adapters = make(folder)
    os.environ.update({
        "GRAFT_BACKBONE": str(folder / "backbone"), "GRAFT_STORE_URL": (folder / "store").as_uri(),
        "GRAFT_OPERATOR_KEY_FILE": str(folder / "key"), "GRAFT_SERVING_CACHE_DIR": str(folder / "cache"),
        "GRAFT_SERVING_MAX_LORAS": "4", "GRAFT_SERVING_MAX_LORA_RANK": str(RANK),
        "GRAFT_SERVING_GPU_MEMORY_UTILIZATION": "0.3",
    })  # fmt: skip
    vllm_launch._EXTENSION = f"{__spec__.name if __spec__ else 'answers_program'}.{Extension.__name__}"
    engine = VllmEngine(str(folder / "backbone"), ServingSettings())  # type: ignore[call-arg]  # from the environment
    await engine.start()
    try:
        asked = Asked(engine, adapters)
        for ref in asked.refs[:2]:
            await engine.load(ref)
        for name, take in (("graphs", True), ("none", False), ("none again", False)):
            await engine.call("graft_test_graphs", take)
            said = await asked.all()
            (taken,) = await engine.call("graft_test_graphs", take)
            say(stage=name, taken=sorted(set(taken)), **said)
        await engine.call("graft_test_graphs", True)
        await compare_loads(asked)
    finally:
        await engine.stop()


async def compare_loads(asked: Asked) -> None:
    """Each adapter as it is staged (the second of each kind as one of a known kind), and as vLLM loads it by itself."""
    from vllm.lora.request import LoRARequest

    for number, ref in enumerate(asked.refs):
        await asked.engine.load(ref)
        staged = await asked.one(asked.prompts[8], asked.engine.lora_request(ref))
        await asked.engine.unload(ref.name)
        # A name of its own, so that the prefix cache has nothing for it.
        stock = LoRARequest(f"stock{number}", 1_000_000 + number, str(ref.path))
        say(stage="loads", adapter=number, staged=staged, stock=await asked.one(asked.prompts[8], stock, stock=True))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
