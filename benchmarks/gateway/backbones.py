"""Backbones of random weights: overhead does not depend on what a model has learned.

Written without torch, so that the process that makes the load stays light.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks import llama_8b
from benchmarks.silent_tokens import silent
from graftwork.backbone import default_path

LARGE = "8b"
SHAPES = {
    "mini": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8},
    "115m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12},
}
NAMES = (*SHAPES, LARGE)
LENGTH = 1024
_DEVIATION = 0.02


def make(shape: str, folder: Path) -> int:
    """Writes a llama with the shipped backbone's tokenizer, in float32 (the large one: bfloat16); returns how many tokens that knows."""
    shutil.copytree(default_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    if shape == LARGE:
        config = json.loads((folder / "config.json").read_text())
        large = config | llama_8b.CONFIG | {"max_position_embeddings": LENGTH}
        (folder / "config.json").write_text(json.dumps(large))
        llama_8b.write_weights(folder)
        return int(config["vocab_size"])
    sizes = SHAPES[shape]
    heads, width, inner = (sizes[name] for name in ("num_attention_heads", "hidden_size", "intermediate_size"))
    config = json.loads((folder / "config.json").read_text()) | sizes
    config |= {"num_key_value_heads": heads, "head_dim": width // heads, "dtype": "float32"}
    config["max_position_embeddings"] = LENGTH
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (config["vocab_size"], width)}
    norms = ["model.norm"]
    for layer in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj": (width, width) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj": (inner, width) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj"] = (width, inner)
        norms += [f"{name}.input_layernorm", f"{name}.post_attention_layernorm"]
    rng = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": rng.standard_normal(size, dtype=np.float32) * np.float32(_DEVIATION)
        for name, size in shapes.items()
    }
    tensors |= {f"{name}.weight": np.ones(width, np.float32) for name in norms}
    # The answers' tokens as well as the prompts': the two are tied.
    tensors["model.embed_tokens.weight"][silent(folder, config["vocab_size"])] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return int(config["vocab_size"])
