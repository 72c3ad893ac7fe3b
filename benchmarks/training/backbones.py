"""The backbones that both sides train on: the shipped one widened for a CPU, Llama-3.1-8B's shape for a GPU.

`mini-wide`: a public model of the size that two cores can train would be under-trained or not here, and one with random
weights learns nothing, so its loss could not tell a right loop from a wrong one. So the shipped backbone (4.7M parameters)
is widened without changing what it computes: every channel and every head is repeated, and weights are divided by the
repeats. Its vocabulary is filled up to 8,192 rows that never win, so that the output layer is 18 % of the parameters, a
little less than in small public models (21 % in SmolLM2-135M, 28 % in Qwen2.5-0.5B).

`llama-3.1-8b`: that model's shape with random weights; only speed and memory mean anything on it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import instructions
from benchmarks.training.judge import PROMPT
from graftwork.backbone import default_path

MINI_WIDE = "mini-wide"
LLAMA_8B = "llama-3.1-8b"
SHAPES = (MINI_WIDE, LLAMA_8B)

REPEATS = 2
"""Width 256 becomes 512, 8 heads become 16."""
VOCABULARY = 8192
NEVER = -12.0
"""Logit that the filled-up rows aim at: together they take less than a tenth of a percent from a likely token."""

LLAMA_8B_SHAPE = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
}
"""The published config of meta-llama/Llama-3.1-8B; its long-context rope scaling changes nothing below 8,192 tokens."""


def build(shape: str, folder: Path, *, device: str) -> None:
    """Writes the backbone with the shipped tokenizer as a Hugging Face folder.

    Args:
        shape: one of SHAPES.
        folder: made.
        device: where random weights are drawn.
    """
    model = _widened() if shape == MINI_WIDE else _random_llama(device)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(default_path() / name, folder / name)


def _random_llama(device: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**LLAMA_8B_SHAPE, bos_token_id=None, eos_token_id=1, pad_token_id=0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        return LlamaForCausalLM(config)


def _widened() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    narrow = LlamaForCausalLM.from_pretrained(default_path(), dtype=torch.float32, local_files_only=True)
    config = json.loads((default_path() / "config.json").read_text())
    for field in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        config[field] *= REPEATS
    config["dtype"] = "float32"
    wide = LlamaForCausalLM(LlamaConfig(**(config | {"vocab_size": VOCABULARY})))
    weights = narrow.state_dict()
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            parameter.copy_(_repeated(name, weights[name], parameter.shape))
        # Tied embeddings see every channel REPEATS times over; the last norm makes up for it.
        wide.model.norm.weight /= REPEATS
        known = len(weights["model.embed_tokens.weight"])
        wide.model.embed_tokens.weight[known:] = _never_likely(wide)
    return wide


def _repeated(name: str, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Repeats channels: outputs as they are, inputs divided, so that sums over repeated inputs come out the same."""
    if weight.dim() == 1:
        return weight.repeat(REPEATS)
    if "embed_tokens" in name:
        filled = torch.zeros(shape)
        filled[: len(weight)] = weight.repeat(1, REPEATS)
        return filled
    return weight.repeat(REPEATS, REPEATS) / REPEATS


def _never_likely(model: Any) -> torch.Tensor:
    """Returns one embedding [width] whose logit is close to NEVER at the hidden states of such rows (ridge regression)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_path())
    states = []
    for row in instructions.make(64, seed=7):
        text = PROMPT.format(**row) + row["response"]
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        states.append(model.model(input_ids=ids).last_hidden_state[0])
    hidden = torch.cat(states)
    gram = hidden.T @ hidden + 1e-2 * torch.eye(hidden.shape[1])
    return torch.linalg.solve(gram, hidden.T @ torch.full((len(hidden),), NEVER))
