"""What an engine of merged weights takes of a GPU's memory for weights of its own, reckoned from the files.

vLLM fuses q, k and v of a layer into one matrix, and gate and up: what is fused with a matrix that the adapter touches cannot be
shared with the backbone's engine. Owns that sum only; needs no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_service.engine.merged_protocol import MERGED_WEIGHTS

_FUSED = {part: parts for parts in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")) for part in parts}
_LEAST_BYTES = 1 << 20
"""Smaller tensors are loaded by each engine (`vllm_plugin.device_weights`)."""


def on_device(shared: Mapping[str, Any]) -> bool:
    """Whether what the backbone's engine shares (`VllmEngine.shared_weights`) lies on a GPU, where only whole tensors are shared."""
    return "tensors" in shared


def own_weights(backbone: Path, merged: Path) -> int:
    """Returns the bytes that are not shared: whole fused matrices, and what is small.

    Args:
        backbone: its folder.
        merged: the folder of the merged files.
    """
    touched = {one for name in _sizes(merged / MERGED_WEIGHTS) for one in _fused_with(name)}
    return sum(
        size
        for file in backbone.glob("*.safetensors")
        for name, size in _sizes(file).items()
        if name in touched or size < _LEAST_BYTES
    )


def _fused_with(name: str) -> list[str]:
    for part in _FUSED:
        if f".{part}." in name:
            return [name.replace(f".{part}.", f".{other}.") for other in _FUSED[part]]
    return [name]


def _sizes(file: Path) -> dict[str, int]:
    """Bytes by name (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as data:
        header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    return {
        name: at["data_offsets"][1] - at["data_offsets"][0] for name, at in header.items() if name != "__metadata__"
    }
