"""Adapters of a kind, of which only the first is gone through tensor by tensor: for threads that stage beside a GPU's engine.

What vLLM's loader makes of an adapter, which tensor is of which module and of which scale, and what there is to refuse, follows from its
configuration and from its file's header. Adapters that were trained alike have both alike, to the byte, and differ in their numbers. The
Python that finds all that out, once for each of hundreds of tensors, takes turns with the steps on Python's lock. So where one of a kind
has been staged, the next one's numbers are copied to where the first one's went, by two calls that need no lock.

Owns what makes two adapters of a kind, and one more of it. Staging the first is `staging`'s.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapter_store.safetensors_header import MAX_HEADER, read_header
from serving_service.vllm_plugin.pace import paced
from serving_service.vllm_plugin.slot_packing import Packed, Ranks, free
from serving_service.vllm_plugin.whole_file import DTYPES

MOST = 32
"""Kinds that are kept. Most fleets have one or two."""
CONFIG, NUMBERS = "adapter_config.json", "adapter_model.safetensors"
_SIDES = ("lora_a", "lora_b")


def key_of(folder: Path) -> bytes | None:
    """Returns what adapters of a kind have alike; None where that cannot be told, as of files that are not such."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        with (folder / NUMBERS).open("rb") as source:
            prefix = source.read(8)
            length = int.from_bytes(prefix, "little")
            header = source.read(length) if length <= MAX_HEADER else b""
            size = source.seek(0, 2)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or len(header) != length:
        return None
    if isinstance(targets := config.get("target_modules"), list):
        config["target_modules"] = sorted(targets, key=str)  # PEFT writes a set, in any order
    return hashlib.sha256(b"%d %d %b %b" % (size, length, header, json.dumps(config).encode())).digest()


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a tensor: its number in the piece, counted from the first, and its shape."""

    number: int
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class Kind:
    """How an adapter of a kind is made of its file.

    Attributes:
        start: of the numbers in the file, in bytes.
        stored: their type there.
        sizes: of the file's tensors in their order, in numbers.
        goes: which of the piece's tensors each of them becomes.
        packed: sizes of the piece's tensors.
        scaled: which of these are multiplied.
        scales: by what.
        dtype: of the piece.
        ranks: as `Packed` has them.
        lora: vLLM's adapter, without tensors.
        layers: vLLM's weights of its layers, with `_Place` for tensors.
    """

    start: int
    stored: torch.dtype
    sizes: list[int]
    goes: list[int]
    packed: list[int]
    scaled: list[int]
    scales: list[float]
    dtype: torch.dtype
    ranks: Ranks
    lora: Any
    layers: dict[str, Any]

    def another(self, folder: Path, lora_id: int) -> Any:
        """Returns vLLM's adapter of an id, in one piece, of a folder of this kind."""
        count = sum(self.sizes)
        held = torch.from_file(
            str(folder / NUMBERS), shared=False, size=self.start + count * self.stored.itemsize, dtype=torch.uint8
        )
        numbers = torch.empty(count, dtype=self.dtype)
        of = torch.split(held[self.start :].view(self.stored), self.sizes)
        parts = torch.split(numbers, self.packed)
        torch._foreach_copy_([parts[number] for number in self.goes], of)
        # After the conversion, as for the first one: the same numbers, to the bit.
        torch._foreach_mul_([parts[number] for number in self.scaled], self.scales)
        del of
        free(held)
        lora = copy(self.lora)
        lora.id, lora.loras, lora.graft_packed = lora_id, {}, Packed(numbers, self.ranks)
        for name, layer in paced(self.layers.items()):
            lora.loras[name] = _mapped(layer, lambda place: parts[place.number].view(place.shape))
        return lora


class Kinds:
    """Those that one worker has seen; for several threads."""

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), dict[bytes, Kind]()

    def find(self, key: bytes | None) -> Kind | None:
        """Returns a kind that was learnt."""
        with self._lock:
            if key is None or (kind := self._known.pop(key, None)) is None:
                return None
            self._known[key] = kind  # the last to go
            return kind

    def learn(self, key: bytes | None, folder: Path, lora: Any, before: "Tensors") -> None:
        """Keeps how an adapter came about, if others can be made so.

        Args:
            key: its.
            folder: its files.
            lora: as it was staged.
            before: its tensors, when they still lay in the file's order.
        """
        if key is None or (kind := _kind_of(folder, lora, before)) is None:
            return
        # The proof: that each tensor is one of the file's as it lies there was looked at by its place and size alone.
        proof = kind.another(folder, lora.id).graft_packed.numbers
        proved = torch.equal(proof, lora.graft_packed.numbers)
        free(proof)
        with self._lock:
            if proved and key not in self._known:  # another thread may have been quicker
                while len(self._known) >= MOST:
                    del self._known[next(iter(self._known))]
                self._known[key] = kind


def _kind_of(folder: Path, lora: Any, before: "Tensors") -> Kind | None:
    if lora.graft_packed is None or not before.alone:
        return None
    after = Tensors(lora)
    came, went = before.in_order(), after.in_order()
    if came is None or went is None:
        return None
    entries = read_header(folder / NUMBERS, through=paced)
    start, stored = entries[0].start, DTYPES[entries[0].dtype]
    sizes = [before.sizes[n] for n in came]
    # Not all that is in the file is the loader's to take, and torch has no views of numbers that are not aligned.
    if sizes != [entry.elements for entry in entries] or start % stored.itemsize:
        return None
    number_of = {n: number for number, n in enumerate(went)}
    places = iter([_Place(number_of[n], shape) for n, shape in enumerate(after.shapes)])
    scaled = {number_of[n]: scale for n, scale in enumerate(before.scales) if scale is not None}
    bare = copy(lora)
    bare.loras, bare.graft_packed = {}, None
    return Kind(
        start=start,
        stored=stored,
        sizes=sizes,
        goes=[number_of[n] for n in came],
        packed=[after.sizes[n] for n in went],
        scaled=list(scaled),
        scales=list(scaled.values()),
        dtype=lora.graft_packed.numbers.dtype,
        ranks=lora.graft_packed.ranks,
        lora=bare,
        layers={name: _mapped(layer, lambda _: next(places)) for name, layer in paced(lora.loras.items())},
    )


class Tensors:
    """Where an adapter's tensors lie in the memory that they share, in the order of its layers.

    Attributes:
        alone: its layers have no others.

    Args:
        lora: vLLM's adapter.
        scaled: those that have been multiplied, and by what.
    """

    def __init__(self, lora: Any, scaled: Iterable[tuple[torch.Tensor, float]] = ()) -> None:
        found = tensors_of(lora)
        scales = {id(tensor): scale for tensor, scale in scaled}
        others = [
            one for layer in paced(lora.loras.values()) for name, one in vars(layer).items() if name not in _SIDES
        ]
        self.alone = not any(isinstance(one, torch.Tensor) for one in others)
        memories = {tensor.untyped_storage().data_ptr() for tensor in paced(found)}
        self.sizes = [tensor.numel() for tensor in found]
        self.shapes = [tensor.shape for tensor in found]
        self.scales = [scales.get(id(tensor)) for tensor in found]
        self._starts = [tensor.storage_offset() for tensor in paced(found)]
        self._together = len(memories) == 1

    def in_order(self) -> Sequence[int] | None:
        """Returns them by where they begin; None unless that is in one memory."""
        return sorted(range(len(self.sizes)), key=self._starts.__getitem__) if self._together else None


def tensors_of(lora: Any) -> list[torch.Tensor]:
    """Returns A and B of an adapter's layers, one layer after the other."""
    sides = [getattr(layer, side) for layer in paced(lora.loras.values()) for side in _SIDES]
    flat = [one for side in sides for one in (side if isinstance(side, list) else [side])]
    return [one for one in flat if one is not None]


def _mapped(layer: Any, made: Callable[[Any], Any]) -> Any:
    """Returns a layer's weights with something else for each tensor."""
    new = copy(layer)
    for side in _SIDES:
        held = getattr(layer, side)
        if isinstance(held, list):
            setattr(new, side, [None if one is None else made(one) for one in held])
        elif held is not None:
            setattr(new, side, made(held))
    return new
