"""The process that merges one adapter: W + scale * B A for each matrix that the adapter touches, and nothing else.

In a process of its own, so that its memory goes back whole and the engine's loop never waits for it. Float32 for the
product and the sum, then one rounding to the checkpoint's dtype; one matrix in memory at a time. Owns the arithmetic and
the files' form; `merged_engines` runs it: one JSON line in, one out. The trainer merges too (for export, onto whole files)
and must come to the same numbers, but the services share no code: how a scale and a matrix are found is the same there.
"""

import json
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open

from adapter_store.base import module_key
from adapter_store.blobs import hash_file
from adapter_store.errors import InvalidAdapter
from adapter_store.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapter_store.peft_config import pattern_value, read_config
from serving_service.engine.merged_protocol import MERGED_WEIGHTS

ABOUT_FILE = "merged.json"
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_NICE = 10


class Unmergeable(Exception):
    """The adapter cannot become part of these weights; the message names the module."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a matrix of the backbone lies."""

    file: Path
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter adds to one matrix.

    Attributes:
        module: its path, as the adapter names it.
        scale: of the product.
        transposed: the checkpoint keeps the matrix as [in, out].
    """

    module: str
    scale: float
    transposed: bool


def main() -> None:
    """Reads a job, merges, and says what came out; a traceback and a status above 0 for what nobody expects."""
    job = json.loads(sys.stdin.readline())
    os.nice(_NICE)
    try:
        answer: dict[str, Any] = merge(Path(job["backbone"]), job["base"], Path(job["adapter"]), Path(job["into"]))
    except (Unmergeable, InvalidAdapter) as error:
        answer = {"refused": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def merge(backbone: Path, base: str, adapter: Path, into: Path) -> dict[str, Any]:
    """Writes the merged tensors and what they are made of.

    Args:
        backbone: its folder.
        base: its digest, for the record.
        adapter: folder with the PEFT files.
        into: made.

    Returns:
        `size` in bytes, and how many `tensors`.

    Raises:
        Unmergeable: see there. InvalidAdapter: its settings are none that are served.
    """
    config = json.loads((backbone / "config.json").read_text())
    if config.get("quantization_config"):
        raise Unmergeable("the backbone is quantised: most of an adapter would be rounded away in its weights")
    with safe_open(adapter / WEIGHTS_FILE, framework="pt") as tensors:
        updates = _updates(adapter, list(tensors.keys()))
        places = _places(backbone, updates, bool(config.get("tie_word_embeddings")))
        into.mkdir()
        with (into / MERGED_WEIGHTS).open("xb") as file:
            dtypes = _write(file, tensors, updates, places)
            _flush(file)
    with (into / ABOUT_FILE).open("x") as about:
        record = {
            "base_digest": base,
            "adapter_digest": hash_file(adapter / WEIGHTS_FILE)[0],
            "dtype": "/".join(sorted(dtypes)),
            "tensors": sorted(place.tensor for place in places),
        }
        about.write(json.dumps(record, indent=1) + "\n")
        _flush(about)
    return {"size": sum(file.stat().st_size for file in into.iterdir()), "tensors": len(places)}


def _updates(adapter: Path, names: list[str]) -> list[Update]:
    """As PEFT has it: the first pattern that fits a module rules, and rsLoRA divides by the root of the rank."""
    config = read_config(adapter / CONFIG_FILE)
    updates = []
    for name in sorted(names):
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise Unmergeable(f"tensor {name} is no update of a matrix (embeddings cannot be merged)")
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            rank = pattern_value(config["rank_pattern"], module, config["r"])
            alpha = pattern_value(config["alpha_pattern"], module, config["lora_alpha"])
            scale = alpha / rank**0.5 if config["use_rslora"] else alpha / rank
            updates.append(Update(module, scale, config["fan_in_fan_out"]))
    return updates


def _places(backbone: Path, updates: list[Update], tied: bool) -> list[Place]:
    """Finds each update's matrix by the part of its path that checkpoint and model agree on."""
    known: dict[str, list[Place]] = {}
    for file in sorted(backbone.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                shape = tuple(tensors.get_slice(name).get_shape())
                if name.endswith(".weight") and len(shape) == 2:
                    known.setdefault(module_key(name.removesuffix(".weight")), []).append(Place(file, name, shape))
    found = []
    for update in updates:
        candidates = known.get(module_key(update.module), [])
        if tied and update.module.endswith("lm_head"):
            raise Unmergeable(f"module {update.module} shares its weights with the embeddings")
        if len(candidates) != 1 or "embed" in update.module.rsplit(".", 1)[-1]:
            raise Unmergeable(
                f"module {update.module} has {len(candidates)} matrices in the backbone that it could change"
            )
        found.append(candidates[0])
    return found


def _write(file: IO[bytes], tensors: Any, updates: list[Update], places: list[Place]) -> set[str]:
    """Writes a safetensors file (https://github.com/huggingface/safetensors#format) a matrix at a time; returns the dtypes."""
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    at = 0
    for place in places:
        dtype = _dtype(place)
        size = place.shape[0] * place.shape[1] * dtype.itemsize
        header[place.tensor] = {"dtype": _NAMES[dtype], "shape": place.shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for update, place in zip(updates, places, strict=True):
        file.write(merged(tensors, update, place).view(torch.uint8).numpy().data)
    return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def _dtype(place: Place) -> torch.dtype:
    with safe_open(place.file, framework="pt") as tensors:
        dtype: torch.dtype = tensors.get_slice(place.tensor)[:1].dtype
    if dtype not in _NAMES:
        raise Unmergeable(f"{place.tensor} is stored as {dtype}: only unquantised weights can be merged into")
    return dtype


def merged(tensors: Any, update: Update, place: Place) -> torch.Tensor:
    """Returns the matrix with its update, contiguous, in the dtype that it had.

    Raises:
        Unmergeable: the shapes differ, or the sum is beyond what the dtype can hold.
    """
    path = f"base_model.model.{update.module}"
    a, b = (tensors.get_tensor(f"{path}.lora_{side}.weight").float() for side in "AB")
    delta = update.scale * (b @ a)
    if update.transposed:
        delta = delta.T
    with safe_open(place.file, framework="pt") as base:
        weight: torch.Tensor = base.get_tensor(place.tensor)
    if delta.shape != weight.shape:
        raise Unmergeable(f"module {update.module} is {tuple(weight.shape)}, its update {tuple(delta.shape)}")
    rounded: torch.Tensor = (weight.float() + delta).to(weight.dtype).contiguous()
    if not rounded.isfinite().all():
        raise Unmergeable(f"module {update.module} with its update is beyond what {weight.dtype} can hold")
    return rounded


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
