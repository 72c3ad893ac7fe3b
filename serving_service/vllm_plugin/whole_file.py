"""Adapters' files read and converted in one piece, for a staging thread beside the steps of a GPU's engine.

vLLM's loader asks for a file's tensors one by one and converts each: hundreds of calls between which the thread and a step take Python's
lock from each other, 3 to 10 ms of a step that takes 2.5. Here the loader is given the file as it expects one, whose numbers were
converted by one call that needs no lock; what it asks for are views, and between two of them it rests (`pace`).

Owns reading. What an adapter may be is checked by vLLM and `staging`, what the file is was checked when it came from the store.
"""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch

from adapter_store.safetensors_header import read_header
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
        MalformedHeader: not such a file.
        ValueError: a type that adapters do not have.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype) -> None:
        entries = read_header(Path(path), through=paced)
        if foreign := {entry.dtype for entry in entries} - DTYPES.keys():
            raise ValueError(f"it has numbers of type {', '.join(sorted(foreign))}: adapters have {', '.join(DTYPES)}")
        self._tensors = dict[str, torch.Tensor]()
        held = torch.from_file(str(path), shared=False, size=os.path.getsize(path), dtype=torch.uint8)
        # Numbers of one type that lie together are one piece, and nearly every file is.
        for kind, run in groupby(entries, key=lambda entry: entry.dtype):
            piece = list(run)
            start, end = piece[0].start, piece[-1].start + piece[-1].size
            stored = held[start:end]
            if start % DTYPES[kind].itemsize:
                stored = stored.clone()  # torch has no views of numbers that are not aligned, which the format allows
            # Copied even where nothing is converted: a file that is still mapped would be read in the engine's loop, and may change.
            numbers = stored.view(DTYPES[kind]).to(dtype, copy=True)
            parts = torch.split(numbers, [entry.elements for entry in piece])
            for entry, part in paced(zip(piece, parts, strict=True)):
                self._tensors[entry.name] = part.view(entry.shape)
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
