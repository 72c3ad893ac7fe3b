"""Building a model without its large weights: tensors that have their shape and no memory.

A stand-in repeats one number in place of all; writing pieces of a weight into it is an error in torch. Unlike on the meta device,
what a model computes while it is built (rotary tables) is real, and a parameter keeps its identity when it gets its data.
Owns what stands in and who still has one. Needs only torch.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode


class StandIns(TorchFunctionMode):
    """While it is entered, `torch.empty` of at least `least` bytes makes stand-ins, on the device that it would be on."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = least
        self._made: list[StorageWeakRef] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.empty or {"out", "pin_memory", "layout", "memory_format"} & kwargs.keys():
            return func(*args, **kwargs)
        like = func(*args, **{**kwargs, "device": "meta"})
        if like.nbytes < self._least:
            return func(*args, **kwargs)
        one = torch.zeros(1, dtype=like.dtype, device=kwargs.get("device"))
        self._made.append(StorageWeakRef(one.untyped_storage()))  # type: ignore[no-untyped-call]
        return one.expand(like.shape)

    def is_one(self, tensor: torch.Tensor) -> bool:
        """Whether it stands in for what was not made."""
        return tensor.untyped_storage()._cdata in {made.cdata for made in self._alive()}

    def left(self) -> int:
        """How many anybody still has."""
        gc.collect()
        return len(self._alive())

    def _alive(self) -> list[StorageWeakRef]:
        return [made for made in self._made if not made.expired()]  # type: ignore[no-untyped-call]


def give_memory(parameter: nn.Parameter | torch.Tensor) -> None:
    """Gives a parameter or buffer memory of its own in place of a stand-in; filled so that `holes` finds what was not loaded."""
    data = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    parameter.data = data.fill_(float("nan")) if data.is_floating_point() else data


def holes(parameter: torch.Tensor) -> bool:
    """Whether some of it was not written since `give_memory`."""
    return parameter.is_floating_point() and bool(parameter.isnan().any())
