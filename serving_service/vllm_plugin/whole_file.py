"""Adapters' files read and converted in one piece, for a staging thread beside the steps of a GPU's engine.

vLLM's loader asks for a file's tensors one by one and converts each: hundreds of calls between which the thread and a step take Python's
lock from each other, 3 to 10 ms of a step that takes 2.5. Here the loader is given the file as it expects one, whose numbers were
converted by one call that needs no lock; what it asks for are views, and between two of them it rests (`pace`).

Owns reading. What an adapter may be is checked by vLLM and `staging`, what the file is was checked when it came from the store.
"""

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch

from serving_service.vllm_plugin.pace import Paced, paced, rest
from serving_service.vllm_plugin.slot_packing import free

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""As safetensors names them (https://github.com/huggingface/safetensors#format)."""


class WholeFile:
    """Implements of `safetensors.safe_open` what vLLM's loader of adapters uses.

    Args:
        path: of the file.
        dtype: of what it gives out.

    Raises:
        ValueError: a type that adapters do not have.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype) -> None:
        with open(path, "rb", buffering=0) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(size))
        entries.pop("__metadata__", None)
        self._tensors = dict[str, torch.Tensor]()
        rest()
        if foreign := {entry["dtype"] for entry in entries.values()} - DTYPES.keys():
            raise ValueError(f"it has numbers of type {', '.join(sorted(foreign))}: adapters have {', '.join(DTYPES)}")
        held = torch.from_file(str(path), shared=False, size=os.path.getsize(path), dtype=torch.uint8)
        # The format has no gaps, so numbers of one type that lie together are one piece; a file nearly always is one.
        for kind, start, end, names in _runs(entries):
            # Copied even where nothing is converted: a file that is still mapped would be read in the engine's loop, and may change.
            numbers = held[8 + size + start : 8 + size + end].view(DTYPES[kind]).to(dtype, copy=True)
            rest()
            shapes = [entries[name]["shape"] for name in names]
            parts = torch.split(numbers, [math.prod(shape) for shape in shapes])
            named = paced(zip(names, parts, shapes, strict=True))
            self._tensors |= {name: part.view(shape) for name, part, shape in named}
        free(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def keys(self) -> Iterator[str]:
        return paced(self._tensors)

    def get_tensor(self, name: str) -> torch.Tensor:
        """Returns a view of the converted numbers, in memory of their own."""
        rest()
        return self._tensors[name]


def _runs(entries: dict[str, Any]) -> Iterator[tuple[str, int, int, list[str]]]:
    """Type, first and last byte and names of tensors that lie together and have one type."""
    names = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    first = 0
    for n, name in enumerate(names):
        if n + 1 == len(names) or entries[names[n + 1]]["dtype"] != entries[name]["dtype"]:
            run = names[first : n + 1]
            yield entries[name]["dtype"], entries[run[0]]["data_offsets"][0], entries[name]["data_offsets"][1], run
            first = n + 1


def install(dtype: torch.dtype) -> None:
    """Makes vLLM's loader of adapters read files so, for slots of a type."""
    from vllm.lora import lora_model

    made = lora_model.LoRAModel.from_lora_tensors.__func__

    def from_lora_tensors(
        cls: Any, lora_model_id: int, tensors: dict[str, torch.Tensor], *args: Any, **named: Any
    ) -> Any:
        return made(cls, lora_model_id, Paced(tensors), *args, **named)

    lora_model.safetensors = SimpleNamespace(safe_open=lambda path, framework: WholeFile(path, dtype))
    lora_model.LoRAModel.from_lora_tensors = classmethod(from_lora_tensors)
