"""How two versions differ: settings, recipe, data, metrics, and the distance of their weights by module.

Needs numpy, never torch. A module's update scale * B @ A is as large as the layer's weight; its norm is taken from the
small factors instead, so that the memory is the adapter's, not the backbone's.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapter_store.documents import canonical
from adapter_store.manifest import WEIGHTS_FILE, VersionManifest
from adapter_store.peft_config import pattern_value
from adapter_store.safetensors_header import Tensor, read_header
from adapter_store.store import AdapterStore

_PREFIX = "base_model.model."
Matrix = NDArray[np.float64]
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """A value that is not the same in both; each as JSON, empty where there is none."""

    section: str
    field: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class ModuleDiff:
    """Frobenius norms of what a module adds to its layer, and of the difference; 0 where a version lacks the module."""

    module: str
    norm_one: float
    norm_other: float
    norm_difference: float


def diff_versions(
    store: AdapterStore, one: VersionManifest, other: VersionManifest, folder: Path
) -> tuple[list[ValueDiff], list[ModuleDiff]]:
    """Compares two versions.

    Args:
        store: where they are.
        one: the first.
        other: the second.
        folder: an empty one for their files, which are verified on the way; the caller removes it.

    Raises:
        CorruptBlob: stored bytes are damaged.
    """
    first, second = (
        _updates(manifest, store.versions.fetch(manifest, folder / name) / WEIGHTS_FILE)
        for manifest, name in ((one, "one"), (other, "other"))
    )
    modules = [_module(name, first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())]
    return _values(one, other), modules


def _values(one: VersionManifest, other: VersionManifest) -> list[ValueDiff]:
    first, second = _sections(one), _sections(other)
    found = []
    for section in first:
        for field in sorted(first[section].keys() | second[section].keys()):
            values = [side[section].get(field, _ABSENT) for side in (first, second)]
            if values[0] != values[1]:
                texts = ["" if value is _ABSENT else canonical(value).decode() for value in values]
                found.append(ValueDiff(section, field, *texts))
    return found


def _sections(manifest: VersionManifest) -> dict[str, dict[str, Any]]:
    return {
        "config": manifest.config | {"dtype": manifest.dtype, "template": manifest.template_digest},
        "base": {
            "model": manifest.base_model,
            "revision": manifest.base_revision,
            "digest": manifest.base_digest,
            "tokenizer": manifest.tokenizer_digest,
        },
        "recipe": manifest.made.recipe,
        "data": {
            "made_by": manifest.made.made_by,
            "sha256": manifest.made.dataset_sha256,
            "seed": manifest.made.seed,
            "package_versions": manifest.made.package_versions,
        },
        "metrics": manifest.made.metrics,
    }


def _updates(manifest: VersionManifest, weights: Path) -> dict[str, tuple[Matrix, Matrix]]:
    """Returns (scale * B, A) by module."""
    tensors = {tensor.name: tensor for tensor in read_header(weights)}
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        a = _load(weights, tensor)
        b = _load(weights, tensors[name.replace(".lora_A.", ".lora_B.")])
        alpha = pattern_value(manifest.config["alpha_pattern"], module, manifest.config["lora_alpha"])
        rank = a.shape[0]
        found[module] = (b * (alpha / (math.sqrt(rank) if manifest.config["use_rslora"] else rank)), a)
    return found


def _module(name: str, one: tuple[Matrix, Matrix] | None, other: tuple[Matrix, Matrix] | None) -> ModuleDiff:
    pairs = [pair for pair in (one, other and (-other[0], other[1])) if pair]
    if len({(b.shape[0], a.shape[1]) for b, a in pairs}) != 1:
        difference = math.nan  # of two backbones: there is no such difference
    else:
        # one - other = [B1, -B2] @ [A1; A2]
        difference = _norm(np.hstack([b for b, _ in pairs]), np.vstack([a for _, a in pairs]))
    return ModuleDiff(name, _norm(*one) if one else 0.0, _norm(*other) if other else 0.0, difference)


def _norm(b: Matrix, a: Matrix) -> float:
    """Frobenius norm of b @ a, without making it: orthogonal factors keep norms, and unlike the traces of Gram matrices
    this loses no digits when the two sides nearly cancel."""
    left, right = np.linalg.qr(b)[1], np.linalg.qr(a.T)[1]
    return float(np.linalg.norm(left @ right.T))


def _load(file: Path, tensor: Tensor) -> Matrix:
    with file.open("rb") as source:
        source.seek(tensor.start)
        data = source.read(tensor.size)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[tensor.dtype])
    return values.reshape(tensor.shape).astype(np.float64)
