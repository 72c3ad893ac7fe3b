"""Checks at the door: what an adapter folder must be before anything of it becomes visible.

Owns the checks on tensors and files. Needs numpy, never torch: the registry checks adapters on machines without it.
Does not own the settings' rules (`adapter_store.peft_config`) or storing (`adapter_store.versions`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_store.base import BaseInfo
from adapter_store.errors import InvalidAdapter
from adapter_store.manifest import CONFIG_FILE, TEMPLATE_FILE, WEIGHTS_FILE
from adapter_store.peft_config import pattern_value, read_config
from adapter_store.safetensors_header import MalformedHeader, Tensor, read_header
from adapter_store.template_check import check_template

MAX_RANK = 64
"""Default of the largest rank accepted; the fleet's `max_lora_rank` must not be lower."""
MAX_WEIGHTS_BYTES = 2 << 30
MAX_TEMPLATE_BYTES = 256 << 10
MAX_HEADER_BYTES = 16 << 20
_PIECE = 1 << 20  # stays in the cache between the passes over it; 4 MiB took three times as long
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_NAME = re.compile(r"base_model\.model\.((?:[A-Za-z0-9_]+\.)+)lora_([AB])\.weight", re.ASCII)
# Exponent and mantissa without the sign, and the exponent alone: all ones there means infinity or NaN.
_PATTERNS: dict[str, tuple[type[np.unsignedinteger[Any]], int, int]] = {
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
}


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """A folder that passed."""

    config: dict[str, Any]
    """Normal form of the settings, with the modules that the tensors name; part of the version's identity."""
    rank: int
    """The largest."""
    alpha: float
    target_modules: tuple[str, ...]
    """Last parts of the modules' paths, sorted."""
    dtype: str
    parameters: int


def check_folder(folder: Path, base: BaseInfo, *, max_rank: int = MAX_RANK) -> CheckedAdapter:
    """Checks an adapter folder against the backbone that it is for.

    Args:
        folder: holds adapter_model.safetensors, adapter_config.json and chat_template.jinja.
        base: the backbone.
        max_rank: the largest rank that the fleet serves.

    Raises:
        InvalidAdapter: with the first thing that is wrong and what to do about it.
    """
    _check_files(folder)
    config = read_config(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    try:
        tensors = read_header(weights, max_header=MAX_HEADER_BYTES)
    except MalformedHeader as error:
        raise InvalidAdapter(
            f"{WEIGHTS_FILE} is not a sound safetensors file: {error}; save the adapter again"
        ) from None
    dtype = _dtype(tensors)
    modules = _pairs(tensors)
    ranks = [_check_module(module, *pair, config, base) for module, pair in sorted(modules.items())]
    if max(ranks) > max_rank:
        raise InvalidAdapter(f"rank {max(ranks)} is above the fleet's maximum of {max_rank}; train with a lower rank")
    _check_values(weights, tensors)
    targets = tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))
    return CheckedAdapter(
        config=config | {"target_modules": list(targets)},
        rank=max(ranks),
        alpha=config["lora_alpha"],
        target_modules=targets,
        dtype=dtype,
        parameters=sum(tensor.elements for tensor in tensors),
    )


def _check_files(folder: Path) -> None:
    if pickles := sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(PICKLE_ENDINGS)):
        raise InvalidAdapter(f"{', '.join(pickles)}: pickled weights can run code and are refused; save as safetensors")
    for name, limit in ((WEIGHTS_FILE, MAX_WEIGHTS_BYTES), (TEMPLATE_FILE, MAX_TEMPLATE_BYTES)):
        file = folder / name
        if not file.is_file() or file.is_symlink():
            raise InvalidAdapter(f"the adapter folder lacks the plain file {name}; save it with the adapter")
        if file.stat().st_size > limit:
            raise InvalidAdapter(f"{name} is larger than {limit} bytes")
    try:
        template = (folder / TEMPLATE_FILE).read_text("utf-8")
    except UnicodeDecodeError:
        raise InvalidAdapter(f"{TEMPLATE_FILE} is not UTF-8 text") from None
    check_template(template, TEMPLATE_FILE)


def _dtype(tensors: list[Tensor]) -> str:
    dtypes = sorted({tensor.dtype for tensor in tensors})
    if len(dtypes) != 1 or dtypes[0] not in _PATTERNS:
        found = ", ".join(dtypes) or "no tensors"
        raise InvalidAdapter(f"{WEIGHTS_FILE} holds {found}; all tensors must be one of {', '.join(_PATTERNS)}")
    return dtypes[0]


def _pairs(tensors: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns lora_A and lora_B by module path."""
    halves: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None or len(tensor.shape) != 2:
            raise InvalidAdapter(
                f"tensor {tensor.name!r:.160} of shape {tensor.shape} is not "
                "base_model.model.<module>.lora_A|B.weight; only LoRA on linear layers is served"
            )
        halves.setdefault(match[1][:-1], {})[match[2]] = tensor
    for module, pair in halves.items():
        if len(pair) != 2:
            raise InvalidAdapter(f"module {module} has lora_{next(iter(pair))} only; save the adapter again")
    return {module: (pair["A"], pair["B"]) for module, pair in halves.items()}


def _check_module(module: str, a: Tensor, b: Tensor, config: dict[str, Any], base: BaseInfo) -> int:
    """Checks one module's shapes; returns its rank."""
    rank = int(pattern_value(config["rank_pattern"], module, config["r"]))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise InvalidAdapter(f"module {module} has rank {a.shape[0]} and {b.shape[1]}, adapter_config.json says {rank}")
    shapes = base.shapes_of(module)
    if shapes is None:
        # vLLM would ignore such a module and serve the base under the adapter's name
        raise InvalidAdapter(
            f"backbone {base.model_id} has no linear module {module}; was the adapter made for another?"
        )
    shape = (a.shape[1], b.shape[0]) if config["fan_in_fan_out"] else (b.shape[0], a.shape[1])
    if shapes and shape not in shapes:
        raise InvalidAdapter(
            f"module {module} is {shapes[0]} in backbone {base.model_id}, the adapter fits {shape}; "
            "was it made for another backbone?"
        )
    return rank


def _check_values(weights: Path, tensors: list[Tensor]) -> None:
    """Every value finite, and at least one lora_B not zero."""
    effect = False
    with weights.open("rb") as source:
        for tensor in tensors:
            kind, magnitude, exponent = _PATTERNS[tensor.dtype]
            source.seek(tensor.start)
            left = tensor.size
            while left:
                piece = source.read(min(_PIECE, left))
                if not piece:
                    raise InvalidAdapter(
                        f"{WEIGHTS_FILE} became shorter while it was checked; publish a folder at rest"
                    )
                left -= len(piece)
                bits = np.frombuffer(piece, dtype=np.dtype(kind).newbyteorder("<")) & kind(magnitude)
                if bool((bits >= kind(exponent)).any()):
                    raise InvalidAdapter(f"tensor {tensor.name} holds NaN or infinity; lower the learning rate")
                effect = effect or (tensor.name.endswith("lora_B.weight") and bool(bits.any()))
    if not effect:
        raise InvalidAdapter("every lora_B is zero: the adapter has no effect; train it first")
