"""A miniature backbone and adapters for it, made without torch."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, KEYS, LAYERS, RANK = 32, 16, 2, 4
OUT = {"q_proj": HIDDEN, "v_proj": KEYS}
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ADAPTER_CONFIG = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 8,
    "target_modules": ["v_proj", "q_proj"],
    "bias": "none",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "/somewhere/else",
    "revision": None,
    "lora_dropout": 0.05,
    "modules_to_save": None,
}


def make_base(folder: Path, seed: int = 0) -> Path:
    """A llama-like backbone with the weights that adapters may touch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.default_rng(seed)
    weights = {
        f"model.layers.{layer}.self_attn.{module}.weight": random.normal(size=(out, HIDDEN)).astype(np.float32)
        for layer in range(LAYERS)
        for module, out in OUT.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder


def lora_tensors(seed: int = 0, rank: int = RANK) -> dict[str, np.ndarray]:
    """lora_A and lora_B of every module, by PEFT's names."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module, out in OUT.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(rank, HIDDEN)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(out, rank)).astype(np.float32)
    return tensors


def make_adapter(folder: Path, seed: int = 0, tensors: dict[str, np.ndarray] | None = None, **settings: object) -> Path:
    """A folder as PEFT leaves it, with the template of the training; `settings` replace those of adapter_config.json."""
    folder.mkdir(parents=True)
    save_file(lora_tensors(seed) if tensors is None else tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG | settings))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder
