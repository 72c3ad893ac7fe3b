"""Engines of merged weights beside a backbone's engine on one GPU: what each takes of the card, and whether it answers alike.

usage: python shared_device_program.py make|run SHAPE FOLDER [second] (SHAPE: small, 8b: Llama-3.1-8B's, 8l: eight layers of it). Prints
a JSON object a line, as it goes. After `run` nothing of it runs.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = {
    "small": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 4, "vocab_size": 32000},
    "8l": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 8, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
RANK, TOKENS = 16, 48


def say(**said: Any) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201


def make(shape: str, folder: Path) -> None:
    """Writes a backbone and an adapter on q_proj and v_proj, random."""
    import shutil

    import torch
    from safetensors.torch import save_file

    from graftwork.backbone import default_path

    sizes = SHAPES[shape]
    head = sizes["hidden_size"] // sizes["num_attention_heads"]
    width, inner, kv = sizes["hidden_size"], sizes["intermediate_size"], head * sizes["num_key_value_heads"]
    matrices = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    backbone, adapter = folder / "backbone", folder / "adapter"
    for made in (backbone, adapter):
        made.mkdir(parents=True)
    torch.manual_seed(1)

    def random(*size: int, scale: float = 0.02) -> torch.Tensor:
        return (torch.randn(*size, device="cuda") * scale).to(torch.bfloat16).cpu()

    table, lora = (sizes["vocab_size"], width), dict[str, torch.Tensor]()
    first = {"model.embed_tokens.weight": random(*table), "lm_head.weight": random(*table)}
    save_file({**first, "model.norm.weight": torch.ones(width, dtype=torch.bfloat16)}, backbone / "model-a.safetensors")
    for layer in range(sizes["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors = {f"{at}.{name}.weight": random(*size) for name, size in matrices.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{norm}.weight"] = torch.ones(width, dtype=torch.bfloat16)
        save_file(tensors, backbone / f"model-{layer:02}.safetensors")
        for name in ("self_attn.q_proj", "self_attn.v_proj"):
            out, into = matrices[name]
            lora[f"base_model.model.{at}.{name}.lora_A.weight"] = random(RANK, into, scale=into**-0.5)
            lora[f"base_model.model.{at}.{name}.lora_B.weight"] = random(out, RANK, scale=0.1)
    config = {
        **sizes, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": head, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "dtype": "bfloat16", "torch_dtype": "bfloat16",
    }  # fmt: skip
    (backbone / "config.json").write_text(json.dumps(config))
    shutil.copy(default_path() / "tokenizer_config.json", backbone)
    tokenizer = json.loads((default_path() / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"t{number}": number for number in range(len(vocabulary), sizes["vocab_size"])}
    (backbone / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file(lora, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(about))


def taken() -> int:
    """Bytes of the card that anybody has, without a context of our own."""
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


async def answers(engine: Any, name: str, lora: Any = None) -> list[list[int]]:
    """Greedy tokens after three prompts, computed anew: each name is a tenant of its own, whom no block in the prefix cache is for.

    With a block from there a prompt is cut into other pieces, which round differently: a random model's tokens change.
    """
    from serving_service.engine.protocol import Rendered, Sampling

    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=True)

    async def one(number: int, prompt: list[int]) -> list[int]:
        stream = engine.generate(f"{name}-{number}", Rendered(prompt), sampling, lora=lora, tenant=name)
        return [token async for delta in stream for token in (delta.scores.token_ids if delta.scores else ())]

    return [
        await one(number, prompt) for number, prompt in enumerate(([40, 41, 42], [60, 9, 12, 33], [*range(6, 300)]))
    ]


async def run(folder: Path, second: bool) -> None:
    from serving_service.engine.merged_engines import VllmMergedEngines
    from serving_service.engine.protocol import LoraRef
    from serving_service.engine.vllm_engine import VllmEngine
    from serving_service.settings import ServingSettings

    backbone, began = str(folder / "backbone"), time.monotonic()
    settings = ServingSettings(
        store_url="file:///nowhere", operator_key_file=folder / "key", cache_dir=folder, max_loras=2, max_lora_rank=RANK,
        merged_budget_bytes=30 << 30, merged_kv_cache_gib=1, max_model_len=2048, lora_modules="q_proj,v_proj",
        gpu_memory_utilization=0.75,
    )  # fmt: skip
    frozen = VllmEngine(backbone, settings)
    makes = VllmMergedEngines(backbone, "d" * 64, settings, frozen)
    alone = VllmMergedEngines(backbone, "d" * 64, settings)
    merging = asyncio.create_task(makes.merge(folder / "adapter", folder / "merged"))
    at = [taken()]
    await asyncio.gather(frozen.start(), merging)
    files = merging.result()
    at.append(taken())
    say(stage="backbone", seconds=time.monotonic() - began, took=at[-1] - at[-2], merged_file=files.size)
    shared = frozen.shared_weights
    say(described=sum(size for worker in shared for _, size in worker["weights"].values()), workers=len(shared))

    engines: dict[str, Any] = {}
    for name, start in (("shared", makes), ("alone", alone), *((("second", makes),) if second else ())):
        since = time.monotonic()
        engines[name] = engine = await start.start(name, files.folder)
        at.append(taken())
        theirs = await engine.shared_bytes()
        say(
            stage=name,
            seconds=time.monotonic() - since,
            took=at[-1] - at[-2],
            shared=theirs,
            bytes_of=start.bytes_of(files),
        )
    lora = LoraRef("t/plain@1", folder / "adapter")
    await frozen.load(lora)
    await frozen.refresh()
    said = {name: await answers(engine, name) for name, engine in engines.items()}
    said |= {"base": await answers(frozen, "base"), "swapped": await answers(frozen, "swapped", lora)}
    first = said["shared"]
    say(
        stage="answers",
        like_alone=first == said.get("alone"),
        second_like_alone=said.get("second") == said.get("alone"),
        like_base=first == said["base"],
        like_swapped=[
            sum(a == b for a, b in zip(x, y, strict=True)) for x, y in zip(first, said["swapped"], strict=True)
        ],
        first=first[0][:8],
    )
    before = taken()
    if second:
        await engines.pop("second").stop()
    say(stage="stopped one", freed=before - taken(), base_again=await answers(frozen, "again") == said["base"])
    # The backbone's engine is killed while the others answer.
    busy = asyncio.gather(
        *(answers(engine, f"busy-{name}") for name, engine in engines.items()), return_exceptions=True
    )
    died = asyncio.create_task(engines["shared"].died())
    await asyncio.sleep(0)
    since = time.monotonic()
    os.kill(frozen.processes[0], signal.SIGKILL)
    ended = await asyncio.wait_for(died, 60)
    ends = await busy
    say(
        stage="killed", after=time.monotonic() - since, said=ended,
        shared_answers=repr(ends[0])[:80], alone_goes_on=ends[1] == said.get("alone"),
    )  # fmt: skip
    for engine in (*engines.values(), frozen):
        await engine.stop()
    say(stage="end", seconds=time.monotonic() - began, taken=taken() - at[0])


if __name__ == "__main__":
    what, shape, where = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    make(shape, where) if what == "make" else asyncio.run(run(where, "second" in sys.argv))
