"""A llama in the shapes of Llama-3.1-8B: its configuration, and weights that cost little to make.

What is measured of it does not depend on what it has learned, so all its tensors are pieces of the same random numbers, but for the rows
of tokens that say nothing (`silent_tokens`). Without torch: the process that makes a load stays light.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.silent_tokens import silent

CONFIG: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "rope_theta": 500000.0,
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
_DEVIATION = 0.02
_RANDOM = 1 << 24


def write_weights(folder: Path) -> None:
    """Writes what belongs to a folder's config.json, 16 GB with this one's vocabulary: bfloat16, a file a layer."""
    config = json.loads((folder / "config.json").read_text())
    numbers = np.random.default_rng(0).standard_normal(_RANDOM, dtype=np.float32) * np.float32(_DEVIATION)
    files = list(_files(config))
    filling = _bfloat16(np.resize(numbers, max(height * width for file in files for height, width in file.values())))
    zeros = {"lm_head.weight": silent(folder, config["vocab_size"])}
    where = {}
    for number, tensors in enumerate(files):
        name = f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        _write(folder / name, tensors, filling, zeros)
        where |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def _files(config: dict[str, Any]) -> Iterator[dict[str, tuple[int, int]]]:
    """Shapes by name, a file each; a height of 1 is a norm's."""
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, values = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    rows = config["vocab_size"], width
    yield {"model.embed_tokens.weight": rows, "lm_head.weight": rows, "model.norm.weight": (1, width)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        projections = {"q": (queries, width), "k": (values, width), "v": (values, width), "o": (width, queries)}
        made = {f"{layer}.self_attn.{part}_proj.weight": shape for part, shape in projections.items()}
        made |= {f"{layer}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        made[f"{layer}.mlp.down_proj.weight"] = (width, inner)
        yield made | {f"{layer}.{norm}_layernorm.weight": (1, width) for norm in ("input", "post_attention")}


def _bfloat16(numbers: np.ndarray[Any, Any]) -> bytes:
    return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()


def _write(file: Path, tensors: dict[str, tuple[int, int]], filling: bytes, zeros: dict[str, list[int]]) -> None:
    """A safetensors file; numpy has no bfloat16, and safetensors therefore no way to write one from it. `zeros` are rows of tensors."""
    header, pieces, end = {}, list[bytes | bytearray | memoryview](), 0
    for name, (height, width) in tensors.items():
        size = 2 * height * width
        shape = [width] if height == 1 else [height, width]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        piece = _bfloat16(np.ones(width, np.float32)) if height == 1 else memoryview(filling)[:size]
        if rows := zeros.get(name):
            piece = bytearray(piece)
            np.frombuffer(piece, "<u2").reshape(shape)[rows] = 0
        pieces.append(piece)
        end += size
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with file.open("wb") as out:
        out.write(len(said).to_bytes(8, "little") + said)
        out.writelines(pieces)
