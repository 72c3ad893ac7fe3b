"""Merged weights are what PEFT's merge makes, rounded once; what cannot be merged is refused by name; nothing half done stays."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapter_store.blobs import hash_file
from serving_service.engine.merge_child import Unmergeable, merge
from serving_service.engine.merged_engines import VllmMergedEngines
from serving_service.engine.protocol import AdapterRefused, EngineUnavailable
from serving_service.settings import ServingSettings

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def backbone(folder: Path, dtype: torch.dtype = torch.float32, *, tied: bool = True) -> Path:
    """A llama of two layers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=40, num_key_value_heads=2, tie_word_embeddings=tied, **sizes)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, *, seed: int = 1, **config: Any) -> Any:
    """Writes a PEFT adapter with random weights and returns its model, in float32."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config}
    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Path]:
    return {
        dtype: backbone(tmp_path_factory.mktemp("base"), dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }


@settings(max_examples=15, deadline=None)
@given(
    rank=st.integers(1, 12),
    alpha=st.integers(1, 40),
    targets=st.sets(st.sampled_from(MODULES), min_size=1),
    rslora=st.booleans(),
    patterns=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_merging_gives_what_peft_gives(
    bases: dict[torch.dtype, Path],
    tmp_path_factory: pytest.TempPathFactory,
    rank: int,
    alpha: int,
    targets: set[str],
    rslora: bool,
    patterns: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("merging")
    more = {"rank_pattern": {"layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"v_proj": 5}} if patterns else {}
    model = adapter(
        bases[dtype], folder / "adapter", seed=seed, r=rank, lora_alpha=alpha, target_modules=sorted(targets),
        use_rslora=rslora, **more,
    )  # fmt: skip
    made = merge(bases[dtype], "d" * 64, folder / "adapter", folder / "merged")
    merged = load_file(folder / "merged" / "merged.safetensors")
    wanted = dict(model.merge_and_unload().named_parameters())
    touched = {name for name in wanted if name.split(".")[-2] in targets}
    assert set(merged) == touched
    assert made["tensors"] == len(touched)
    assert made["size"] == sum(file.stat().st_size for file in (folder / "merged").iterdir())
    ulp = torch.finfo(dtype).eps
    for name, tensor in merged.items():
        assert tensor.dtype == dtype
        # Both sum in float32, in another order; then one rounding, which may fall to either side.
        torch.testing.assert_close(tensor.float(), wanted[name].detach(), rtol=ulp, atol=1e-6)
    about = json.loads((folder / "merged" / "merged.json").read_text())
    assert about["base_digest"] == "d" * 64
    assert about["adapter_digest"] == hash_file(folder / "adapter" / "adapter_model.safetensors")[0]
    assert about["tensors"] == sorted(touched)


def renamed(folder: Path, change: Callable[[str], str], scale: float = 1.0) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = {change(name): tensor * scale for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def quantised(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))


def packed(base: Path) -> None:
    file = base / "model.safetensors"
    tensors = {name: tensor.to(torch.int8) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


REFUSED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "unknown module": (lambda base, made: renamed(made, lambda name: name.replace("q_proj", "w_proj")), "w_proj"),
    "tied head": (
        lambda base, made: renamed(made, lambda name: name.replace("model.layers.0.self_attn.q_proj", "lm_head")),
        "lm_head",
    ),
    "embeddings": (
        lambda base, made: renamed(
            made, lambda name: name.replace("model.layers.0.self_attn.q_proj", "model.embed_tokens")
        ),
        "embed_tokens",
    ),
    "another tensor": (lambda base, made: renamed(made, lambda name: name.replace("lora_B", "lora_X")), "lora_X"),
    "another shape": (lambda base, made: renamed(made, lambda name: name.replace("q_proj", "k_proj")), "k_proj"),
    "quantised": (lambda base, made: quantised(base), "quantised"),
    "packed": (lambda base, made: packed(base), "int8"),
    "beyond float16": (lambda base, made: renamed(made, str, scale=1e5), "_proj"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, what: str) -> None:
    spoil, named = REFUSED[what]
    base = backbone(tmp_path / "base", torch.float16)
    adapter(base, tmp_path / "adapter")
    spoil(base, tmp_path / "adapter")
    with pytest.raises(Unmergeable, match=named):
        merge(base, "d", tmp_path / "adapter", tmp_path / "merged")


def engines(base: Path, work: Path) -> VllmMergedEngines:
    return VllmMergedEngines(
        str(base),
        "d" * 64,
        ServingSettings(store_url="file:///nowhere", operator_key_file=work / "key", cache_dir=work),
    )


async def test_a_merge_is_whole_or_not_there(bases: dict[torch.dtype, Path], tmp_path: Path) -> None:
    base = bases[torch.float32]
    adapter(base, tmp_path / "adapter")
    files = await engines(base, tmp_path).merge(tmp_path / "adapter", tmp_path / "merged")
    assert {file.name for file in files.folder.iterdir()} == {"merged.safetensors", "merged.json"}
    assert files.tensors == 4
    renamed(tmp_path / "adapter", lambda name: name.replace("q_proj", "w_proj"))
    with pytest.raises(AdapterRefused, match="w_proj"):
        await engines(base, tmp_path).merge(tmp_path / "adapter", tmp_path / "again")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(EngineUnavailable, match="status 1"):
        await engines(base, tmp_path).merge(tmp_path / "adapter", tmp_path / "again")
    assert set(os.listdir(tmp_path)) == {"adapter", "merged"}


async def stuck(tmp_path: Path) -> tuple[asyncio.Task[Any], psutil.Process]:
    """A merge that has begun, and waits for the rest of its backbone's configuration."""
    base = tmp_path / "base"
    base.mkdir()
    os.mkfifo(base / "config.json")
    merging = asyncio.create_task(engines(base, tmp_path).merge(tmp_path / "adapter", tmp_path / "merged"))
    # Comes back when the process reads; never closed, so that it reads for ever.
    await asyncio.wait_for(asyncio.to_thread(os.open, base / "config.json", os.O_WRONLY), 60)
    # Other tests of the same run may have left children of their own, such as multiprocessing's tracker.
    (child,) = [one for one in psutil.Process().children() if "merge_child" in " ".join(one.cmdline())]
    return merging, child


async def test_cancelling_ends_the_process(tmp_path: Path) -> None:
    merging, child = await stuck(tmp_path)
    merging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await merging
    assert not child.is_running()


async def test_a_killed_process_is_said_so(tmp_path: Path) -> None:
    merging, child = await stuck(tmp_path)
    child.kill()
    with pytest.raises(EngineUnavailable, match="status -9"):
        await merging


def test_a_merge_dies_with_its_parent(tmp_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from tests.unit.serving.test_serving_merging import stuck
async def main():
    merging, child = await stuck(Path({str(tmp_path)!r}))
    print(child.pid, flush=True)
    await merging
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(60)
    child.wait(60)
