"""What there is to refuse in an adapter that vLLM's loader lets through: what it would leave out unsaid, or fail at in a step.

Owns these checks. What the store lets in, and what the loader refuses, is found before.
"""

from collections.abc import Iterable
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel

from serving_service.vllm_plugin.pace import paced


def check_places(manager: Any, lora: LoRAModel) -> None:
    """Raises ValueError for tensors of layers that this service has no slots for: vLLM would leave them out unsaid."""
    wanted = manager.lora_config.target_modules
    if wanted is None:
        return
    changed = set(lora.loras)
    for packed, children in manager.packed_modules.items():
        weights = lora.loras.get(packed)
        if weights is not None and isinstance(weights.lora_a, list):
            changed.discard(packed)
            changed |= {child for child, a in zip(children, weights.lora_a, strict=True) if a is not None}
    if foreign := sorted({name.rpartition(".")[2] for name in changed} - set(wanted)):
        raise ValueError(
            f"it changes {', '.join(foreign)}; this service has slots for {', '.join(sorted(wanted))} only"
        )


def check_numbers(tensors: Iterable[torch.Tensor]) -> None:
    """Raises ValueError for numbers that became infinite on the way to a slot: by B's scale, or in the service's type. The store lets only
    finite ones in. A step multiplies rows of one adapter with others' B and 0: infinity makes NaN of that, for all."""
    for tensor in tensors:
        # The extremes, an infinity or NaN among them: a pass of 2 ms for 40 MB, where `isfinite` takes 60.
        if tensor.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(tensor)):
            kind = str(tensor.dtype).removeprefix("torch.")
            wider = ": serve with dtype bfloat16 or float32" if tensor.dtype is torch.float16 else ""
            raise ValueError(f"scaled by lora_alpha / r it holds numbers that are too large for {kind}{wider}")


def check_fit(manager: Any, lora: LoRAModel) -> None:
    """Raises ValueError for tensors that a slot cannot hold: the copy in the engine's loop would fail half-way, and the step
    of the request behind it with it. Layers that are split over workers, and experts, have shapes of their own."""
    for name, module in paced(manager.modules.items()):
        weights = lora.get_lora(name)
        if weights is None or getattr(module, "tp_size", 1) > 1 or "MoE" in type(module).__name__:
            continue
        for side in ("lora_a", "lora_b"):
            slots, found = getattr(module, f"{side}_stacked", ()), getattr(weights, side)
            tensors = found if isinstance(found, list) else [found]
            if len(slots) != len(tensors):
                continue  # vLLM splits it
            for slot, tensor in zip(slots, tensors, strict=True):
                rank, width = (2, 3) if side == "lora_a" else (3, 2)  # of a slot's dimensions
                if tensor is not None and not (
                    tensor.shape[rank - 2] <= slot.shape[rank] and tensor.shape[width - 2] == slot.shape[width]
                ):
                    raise ValueError(
                        f"{name}: {side} has the shape {tuple(tensor.shape)}, a slot {tuple(slot.shape[2:])}"
                    )
