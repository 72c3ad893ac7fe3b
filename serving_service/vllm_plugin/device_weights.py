"""Weights in a GPU's memory that other engines of the same backbone on that GPU compute with, through CUDA IPC.

The backbone's engine describes where its tensors lie (`describe`); an engine of merged weights opens them (`open_weights`)
when it has proved that they are what it would load itself: the same card, checkpoint, versions, names, shapes, strides, and
the same bytes in a sample. Owns what goes between the processes and the proofs; needs only torch. Does not own which
weights a model takes from here (`device_loading`), nor what happens when their owner ends (`owner`).

CUDA has no read-only form of this: whoever opens a tensor could write to it. vLLM writes to weights only while it loads and
processes them, and `device_loading` puts the opened ones in after the first and proves after the second that they are unchanged.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serving_service.vllm_plugin.owner import follow, identity

LEAST_BYTES = 1 << 20
"""Smaller tensors (norms, biases) are loaded: a block of the caching allocator holds dozens of them."""
_SAMPLES = 4096

Shared = dict[str, Any]
"""As it goes between processes, a worker's: `about` (must be equal on both sides), `owner`, `weights` (name to [place in
`tensors`, bytes]), `tensors`."""
Handle = list[Any]
"""What opens a storage: numbers, and bytes as hexadecimal text."""


class Unshareable(Exception):
    """The backbone's weights cannot be used; the message says why. The model is loaded whole instead."""


def tensors_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the parameters and buffers that are worth sharing, by the names that an engine without LoRA has for them."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.nbytes >= LEAST_BYTES and tensor.is_contiguous():
            yield name.replace(".base_layer", ""), tensor.data  # what vLLM puts a LoRA layer around


def describe(model: nn.Module, about: Mapping[str, Any], export: Callable[[torch.Tensor], Handle]) -> Shared:
    """Describes a loaded model's weights for other processes; they must stay where they are as long as this one lives.

    Args:
        model: loaded and processed, as it computes.
        about: see `about_engine`.
        export: makes a storage's handle, `cuda_handle` except in tests.

    Raises:
        Unshareable: this memory cannot be exported (expandable segments or vLLM's own allocator may be why).
    """
    weights, tensors = dict[str, list[int]](), list[dict[str, Any]]()
    for name, tensor in tensors_of(model):
        try:
            handle = export(tensor)
        except RuntimeError as error:  # CUDA's errors have no class of their own
            raise Unshareable(f"{name} cannot be exported: {str(error).splitlines()[0]}") from error
        weights[name] = [len(tensors), tensor.nbytes]
        tensors.append({**_layout(tensor), "sample": sample(tensor), "handle": handle})
    return {"about": dict(about), "owner": identity(), "weights": weights, "tensors": tensors}


class Opened:
    """The backbone's tensors, opened one at a time.

    Args:
        shared: what `describe` returned in the other process.
        open_: opens a handle, `cuda_storage` except in tests.
    """

    def __init__(self, shared: Shared, open_: Callable[[Handle], torch.UntypedStorage]) -> None:
        self._shared, self._open = shared, open_

    def has(self, names: Iterable[str], like: torch.Tensor) -> str | None:
        """Returns under which of its names there is a tensor of this layout, without opening it; `like` may be a stand-in."""
        for name in names:
            if found := self._shared["weights"].get(name):
                tensor = self._shared["tensors"][found[0]]
                if tensor["shape"] == list(like.shape) and tensor["dtype"] == str(like.dtype):
                    return name
        return None

    def get(self, name: str) -> torch.Tensor:
        """Opens one.

        Raises:
            Unshareable: it cannot be opened, or holds other bytes than its owner said.
        """
        tensor = self._shared["tensors"][self._shared["weights"][name][0]]
        try:
            storage = self._open(tensor["handle"])
        except RuntimeError as error:
            raise Unshareable(f"{name} cannot be opened: {str(error).splitlines()[0]}") from error
        dtype = getattr(torch, tensor["dtype"].removeprefix("torch."))
        opened = torch.empty(0, dtype=dtype, device=storage.device).set_(
            storage, tensor["offset"], tensor["shape"], tensor["stride"]
        )
        self.prove(name, opened)
        return opened

    def prove(self, name: str, opened: torch.Tensor) -> None:
        """Raises Unshareable when its bytes are not, or no longer, what its owner said."""
        if sample(opened) != self._shared["tensors"][self._shared["weights"][name][0]]["sample"]:
            raise Unshareable(f"{name} holds other bytes than its owner said")


def open_weights(shared: Shared, about: Mapping[str, Any], open_: Callable[[Handle], torch.UntypedStorage]) -> Opened:
    """Prepares opening another process's weights; from here on this process ends when that one has.

    Raises:
        Unshareable: they belong to another backbone, card or version, or to a process that is gone.
    """
    differ = sorted(key for key in {*about, *shared["about"]} if about.get(key) != shared["about"].get(key))
    if differ:
        raise Unshareable(f"the backbone's engine has another {', '.join(differ)}")
    if not follow(shared["owner"]):
        raise Unshareable("the backbone's engine is gone, or cannot be watched from here")
    return Opened(shared, open_)


def sample(tensor: torch.Tensor) -> str:
    """Returns a digest of about 4096 of a contiguous tensor's bytes, spread over all of it."""
    data = tensor.detach().view(-1).view(torch.uint8)
    step = data.numel() // _SAMPLES | 1  # odd, so that it meets every byte of a number
    taken = torch.cat([data[::step], data[-64:]])
    return hashlib.sha256(taken.cpu().numpy().tobytes()).hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """Returns a digest of which files the weights are loaded from: names, sizes, times, and what their headers say."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        stat = file.stat()
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            header = data.read(min(length, 100 << 20))
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {hashlib.sha256(header).hexdigest()}\n".encode())
    return digest.hexdigest()


def cuda_handle(tensor: torch.Tensor) -> Handle:
    """Exports the storage of a tensor on a GPU. Pieces of one block of the caching allocator share what CUDA opens."""
    handle = list(tensor.untyped_storage()._share_cuda_())  # type: ignore[no-untyped-call]
    return [part.hex() if isinstance(part, bytes) else part for part in handle]


def cuda_storage(handle: Handle) -> torch.UntypedStorage:
    """Opens an exported storage on this process's current device, which may have another number there."""
    _, block, size, offset, counter, place, event, _ = handle
    # Without waiting for an event of the owner's: its weights were written and read long before they were described.
    return torch.UntypedStorage._new_shared_cuda(
        torch.cuda.current_device(),
        bytes.fromhex(block),
        size,
        offset,
        bytes.fromhex(counter),
        place,
        bytes.fromhex(event),
        False,
    )


def _layout(tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "offset": tensor.storage_offset(),
        "dtype": str(tensor.dtype),
    }
